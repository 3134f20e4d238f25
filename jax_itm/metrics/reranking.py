"""Re-ranking: the first candidates of a fast score, ordered anew by a slower one."""

import numpy as np

from jax_itm.metrics import retrieval
from jax_itm.types import NamedTuple


class Nearest:
    """The `k` best captions of every image and images of every caption, from blocks seen once."""

    def __init__(self, images: int, captions: int, k: int):
        self.texts = np.zeros((images, min(k, captions)), np.int64)
        self.images = np.zeros((captions, min(k, images)), np.int64)
        self.of_texts, self.of_images = (np.full(x.shape, -np.inf) for x in (self.texts, self.images))

    def add(self, block: retrieval.Block) -> None:
        """Takes in one block."""
        (i0, i1), (t0, t1), scores = block
        scores = np.asarray(scores)
        _merge(self.texts[i0:i1], self.of_texts[i0:i1], scores, np.arange(t0, t1))
        _merge(self.images[t0:t1], self.of_images[t0:t1], scores.T, np.arange(i0, i1))


def _merge(best: np.ndarray, known: np.ndarray, scores: np.ndarray, numbers: np.ndarray) -> None:
    """Puts the best of `known` (n, k) and `scores` (n, m) into `known`, and their numbers into `best`."""
    both = np.concatenate([known, scores], axis=1)
    order = np.argsort(-both, axis=1, kind="stable")[:, : best.shape[1]]
    named = np.concatenate([best, np.broadcast_to(numbers, scores.shape)], axis=1)
    known[:] = np.take_along_axis(both, order, axis=1)
    best[:] = np.take_along_axis(named, order, axis=1)


class Pairs(NamedTuple):
    """Candidates of one direction, (n, k) each."""

    image: np.ndarray
    caption: np.ndarray
    right: np.ndarray  # whether the pair matches
    first: np.ndarray  # the first ranking's scores


def reordered(rank: np.ndarray, right: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The ranks (n,) after candidates are ordered by `scores` (n, k), ties pessimistic.

    Args:
        rank: the first ranking's ranks, kept where no candidate is right: they are beyond k then.
        right: bool (n, k), whether a candidate is a right answer.
        scores: of the candidates.
    """
    best = np.max(np.where(right, scores, -np.inf), axis=1)
    better = np.sum(~right & (scores >= best[:, None]), axis=1)
    return np.where(np.any(right, axis=1), 1 + better, rank)


def joined(scores: np.ndarray, first: np.ndarray, weight: float) -> np.ndarray:
    """Both scores of the candidates (n, k) in one, `first` with this weight; 0 leaves `scores` alone.

    Each is measured in its own spread: the root of the mean variance among the candidates of a query. BLIP
    (Li et al., ICML 2022, the released evaluation) adds the two as they are.
    """
    if not weight:
        return scores
    unit = lambda x: x / max(float(np.sqrt(np.mean(np.var(x.astype(np.float64), axis=1)))), 1e-12)
    return unit(scores) + weight * unit(first)
