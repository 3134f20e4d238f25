"""Hubs, which are items close to too many queries; and two normalisations of scores against them.

Both normalisations look at all queries of the test set together. Their results therefore belong to another
protocol, never to be compared with results of scores that see one query at a time.
"""

from typing import Any

import numpy as np

from jax_itm.errors import UserError
from jax_itm.metrics.counter import Scores


def hubness(nearest: np.ndarray, items: int) -> dict[str, float]:
    """How unequally items occur among the nearest of the queries (Radovanovic et al., JMLR 2010).

    The k-occurrence of an item is the number of queries that have it among their first k.

    Args:
        nearest: int (queries, k), the first k items of each query, such as `TopCandidates.captions`.
        items: the number of all items.

    Returns:
        {"skewness": of the k-occurrences, 0 if all are equal; "max": the largest of them;
        "never_retrieved": the percentage of items with none}.

    Example:
        >>> hubness(np.array([[0], [0], [0], [1]]), items=4)["never_retrieved"]
        50.0
    """
    occurrence = np.bincount(nearest.ravel(), minlength=items).astype(np.float64)
    deviation = occurrence - occurrence.mean()
    spread = np.sqrt(np.mean(deviation**2))
    return {
        "skewness": float(np.mean(deviation**3) / spread**3) if spread else 0.0,
        "max": float(occurrence.max()),
        "never_retrieved": 100 * float(np.mean(occurrence == 0)),
    }


def csls(scores: Any, image_mean: Any, caption_mean: Any) -> Any:
    """Cross-domain similarity local scaling (Conneau et al., ICLR 2018):

        csls(v, t) = 2 s(v, t) - r(v) - r(t).

    Args:
        scores: (i, t), numpy or JAX.
        image_mean: (i,), r(v): each image's mean score with its k nearest captions.
        caption_mean: (t,), r(t): each caption's with its k nearest images.

    Returns:
        (i, t). Both directions rank by it.
    """
    return 2 * scores - image_mean[:, None] - caption_mean[None, :]


def neighbour_mean(nearest_scores: np.ndarray) -> np.ndarray:
    """The mean score of each row's nearest items (n, k); `TopCandidates` marks missing ones by -inf.

    >>> neighbour_mean(np.array([[0.5, 0.25], [1.0, -np.inf]]))
    array([0.375, 1.   ])
    """
    is_there = np.isfinite(nearest_scores)
    return np.sum(np.where(is_there, nearest_scores, 0), axis=1) / np.sum(is_there, axis=1)


def inverted_softmax(scores: Any, log_sum: Any, temperature: float) -> Any:
    """Scores normalised over the *queries* (Smith et al., ICLR 2017), as logarithms times the temperature.

        T log( exp(s(q, x) / T) / sum_q' exp(s(q', x) / T) ) = s(q, x) - T log_sum(x)

    An item that is near to all queries has a large sum, and loses.

    Args:
        scores: (queries, items), numpy or JAX.
        log_sum: (items,), log sum_q' exp(s(q', x) / T): see `QuerySums`.
        temperature: T.
    """
    return scores - temperature * log_sum[None, :]


class QuerySums:
    """log sum exp(s / T) over the images for every caption, and over the captions for every image.

    It is fed blocks in any order, each once, and takes O(images + captions) memory.

    Attributes:
        images: float64 (i,), the sum over the captions.
        captions: float64 (t,), the sum over the images.

    Example:
        >>> sums = QuerySums(images=2, captions=1, temperature=0.5)
        >>> sums.add(slice(0, 2), slice(0, 1), np.zeros((2, 1)))
        >>> bool(np.isclose(sums.captions[0], np.log(2)))
        True
    """

    def __init__(self, images: int, captions: int, temperature: float):
        if not 0 < temperature < np.inf:
            raise UserError(f"temperature {temperature}: must be a finite number above 0")
        self.temperature = temperature
        self.images = np.full(images, -np.inf)
        self.captions = np.full(captions, -np.inf)

    def add(self, rows: slice, columns: slice, scores: Scores) -> None:
        """Takes in the scores (rows, columns) of a block."""
        block = np.asarray(scores).astype(np.float64) / self.temperature
        self.images[rows] = np.logaddexp(self.images[rows], _log_sum_exp(block, axis=1))
        self.captions[columns] = np.logaddexp(self.captions[columns], _log_sum_exp(block, axis=0))


def _log_sum_exp(x: np.ndarray, axis: int) -> np.ndarray:
    peak = np.max(x, axis=axis, keepdims=True)
    return np.log(np.sum(np.exp(x - peak), axis=axis)) + np.squeeze(peak, axis=axis)
