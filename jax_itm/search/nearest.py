"""The items whose vectors have the largest inner product with a query's: exact, by one product."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

QUERIES_AT_ONCE = 16


class Neighbours(NamedTuple):
    """The best items of each query, best first.

    Attributes:
        ids: int64 (q, k).
        scores: float32 (q, k), the inner products.
    """

    ids: np.ndarray
    scores: np.ndarray


@runtime_checkable
class Nearest(Protocol):
    """Finds the items that are nearest to queries."""

    def search(self, queries: np.ndarray, k: int) -> Neighbours:
        """The best `k` items, or all where there are fewer, of float32 queries (q, d)."""
        ...


class ExactNearest:
    """Compares queries with all items; of equal scores the smaller id comes first.

    Args:
        ids: int64 (n,), ascending.
        vectors: float32 (n, d).
    """

    def __init__(self, ids: np.ndarray, vectors: np.ndarray):
        self.ids = ids
        self.vectors = vectors

    def search(self, queries: np.ndarray, k: int) -> Neighbours:
        """See `Nearest`."""
        k = min(k, len(self.ids))
        ids = np.zeros((len(queries), k), np.int64)
        scores = np.zeros((len(queries), k), np.float32)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            products = queries[start : start + QUERIES_AT_ONCE] @ self.vectors.T  # numpy: full float32
            for row, own in enumerate(products, start):
                best = _best(own, k)
                ids[row] = self.ids[best]
                scores[row] = own[best]
        return Neighbours(ids, scores)


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Where the `k` highest scores are, best first; of equal ones the first. Sorts no more than it must."""
    if k == 0:
        return np.zeros(0, np.int64)
    lowest = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= lowest)
    return candidates[np.argsort(-scores[candidates], kind="stable")[:k]]
