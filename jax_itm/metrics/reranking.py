"""Re-ranking: the first candidates by a fast score are put in a new order by a slower one."""

from typing import NamedTuple

import numpy as np

from jax_itm.metrics.ranking import rank
from jax_itm.metrics.retrieval import Scores


class TopCandidates:
    """The `k` best captions of every image and the `k` best images of every caption, best first.

    It is fed blocks in any order and takes O(k (images + captions)) memory. Of equal scores, the one that
    was fed first comes first.

    Attributes:
        captions: int (images, k), with `caption_scores` float64.
        images: int (captions, k), with `image_scores`.

    Example:
        >>> top = TopCandidates(images=2, captions=3, k=2)
        >>> top.add(slice(0, 2), slice(0, 3), np.array([[0.1, 0.3, 0.2], [0.9, 0.7, 0.8]]))
        >>> top.captions
        array([[1, 2],
               [0, 2]])
    """

    def __init__(self, images: int, captions: int, k: int):
        self.captions = np.zeros((images, min(k, captions)), np.int64)
        self.images = np.zeros((captions, min(k, images)), np.int64)
        self.caption_scores = np.full(self.captions.shape, -np.inf)
        self.image_scores = np.full(self.images.shape, -np.inf)

    def add(self, rows: slice, columns: slice, scores: Scores) -> None:
        """Takes in the scores (rows, columns) of a block."""
        block = np.asarray(scores)
        captions = np.arange(columns.start, columns.stop)
        images = np.arange(rows.start, rows.stop)
        _merge(self.captions[rows], self.caption_scores[rows], captions, block)
        _merge(self.images[columns], self.image_scores[columns], images, block.T)


def _merge(items: np.ndarray, item_scores: np.ndarray, new_items: np.ndarray, new_scores: np.ndarray) -> None:
    """Merges new items (m,) with scores (n, m) into the best `items` (n, k) and their scores, in place."""
    scores = np.concatenate([item_scores, new_scores], axis=1)
    candidates = np.concatenate([items, np.broadcast_to(new_items, new_scores.shape)], axis=1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : items.shape[1]]
    item_scores[:] = np.take_along_axis(scores, best, axis=1)
    items[:] = np.take_along_axis(candidates, best, axis=1)


class Candidates(NamedTuple):
    """The candidates of every query in one direction, (queries, k) each.

    Attributes:
        image: number of the image of each pair.
        caption: number of the caption.
        is_match: whether they belong together.
        first_scores: the scores by which they became candidates.
    """

    image: np.ndarray
    caption: np.ndarray
    is_match: np.ndarray
    first_scores: np.ndarray


def reranked(first_ranks: np.ndarray, is_match: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The ranks after the candidates are put in the order of `scores`, pessimistic on ties.

    Args:
        first_ranks: (queries,), the ranks before. They stay if no candidate is a match: it is beyond k then.
        is_match: bool (queries, k).
        scores: (queries, k), of the candidates.

    Returns:
        Ranks (queries,).

    Example:
        >>> is_match = np.array([[False, True], [False, False]])
        >>> reranked(np.array([2, 7]), is_match, np.array([[0.1, 0.6], [0.5, 0.3]]))
        array([1, 7])
    """
    best = np.max(np.where(is_match, scores, -np.inf), axis=1)
    not_worse = np.sum(~is_match & (scores >= best[:, None]), axis=1)
    return np.where(np.any(is_match, axis=1), rank(not_worse), first_ranks)


def combine_scores(scores: np.ndarray, first_scores: np.ndarray, weight: float) -> np.ndarray:
    """`scores + weight * first_scores`, each in units of its own spread; plain `scores` if `weight` is 0.

    The spread is the root of the mean, over queries, of the variance among a query's candidates. BLIP (Li et
    al., ICML 2022, the released evaluation) adds the two scores as they are.

    Args:
        scores: (queries, k), of the candidates.
        first_scores: (queries, k), those by which they became candidates.
        weight: of `first_scores`.
    """
    if not weight:
        return scores
    return _in_units_of_spread(scores) + weight * _in_units_of_spread(first_scores)


def _in_units_of_spread(scores: np.ndarray) -> np.ndarray:
    spread = float(np.sqrt(np.mean(np.var(scores.astype(np.float64), axis=1))))
    return scores / max(spread, 1e-12)
