"""Metrics of queries with any number of relevant items: Recall@K in two forms, R-Precision and mAP@R.

ECCV Caption (Chun et al., ECCV 2022) judges many captions to be true of an image and many images to be
described by a caption; CxC (Parekh et al., EACL 2021) extends COCO's pairs likewise.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jax_itm.errors import UserError
from jax_itm.metrics.counter import Scores
from jax_itm.metrics.ranking import KS

Relevant = Mapping[int, Sequence[int]]  # for each query, its relevant items


class TopRelevance:
    """Which of the `k` best items of every query are relevant; a relevant item loses every tie.

    It is fed blocks of a score matrix in any order, each once, and takes O(k queries) memory.

    Args:
        relevant: the relevant items of each query, at least one. Rows that are no query are ignored. An item
            with a number below 0 counts as relevant, but is not among the items: it is never found.
        items: the number of all items.
        k: how many items of each query are kept.

    Attributes:
        queries: int (q,), the numbers of the queries, ascending.
        count: int (q,), how many items are relevant to each.
        is_relevant: bool (q, k), whether the item at each rank is relevant.

    Example:
        >>> top = TopRelevance({0: [2], 1: [0, 2]}, items=3, k=2)
        >>> top.add(slice(0, 2), slice(0, 3), np.array([[0.9, 0.1, 0.5], [0.3, 0.2, 0.1]]))
        >>> top.is_relevant
        array([[False,  True],
               [ True, False]])
    """

    def __init__(self, relevant: Relevant, items: int, k: int):
        self.queries = np.array(sorted(relevant), np.int64)
        sets = [sorted(set(relevant[int(query)])) for query in self.queries]
        self.count = np.array([len(one) for one in sets], np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self.count)])
        self._pair_query = np.repeat(np.arange(len(sets)), self.count)
        self._pair_item = np.concatenate([np.array(one, np.int64) for one in sets])
        shape = (len(sets), min(k, items))
        self.is_relevant = np.zeros(shape, bool)
        self._scores = np.full(shape, -np.inf)

    def add(self, rows: slice, columns: slice, scores: Scores) -> None:
        """Takes in one block.

        Args:
            rows: which queries.
            columns: which items.
            scores: (rows, columns). Higher is better.

        Raises:
            UserError: a score is not finite.
        """
        first, last = np.searchsorted(self.queries, [rows.start, rows.stop])
        block = np.asarray(scores)[self.queries[first:last] - rows.start].astype(np.float64)
        if not np.all(np.isfinite(block)):
            raise UserError("scores are not all finite: no rank")
        is_relevant = self._relevant_in(int(first), int(last), columns)
        # By the least step of float64: scores have float32 or less, so it decides ties and nothing else.
        block[is_relevant] = np.nextafter(block[is_relevant], -np.inf)
        all_scores = np.concatenate([self._scores[first:last], block], axis=1)
        all_relevant = np.concatenate([self.is_relevant[first:last], is_relevant], axis=1)
        best = _best(all_scores, self._scores.shape[1])
        self._scores[first:last] = np.take_along_axis(all_scores, best, axis=1)
        self.is_relevant[first:last] = np.take_along_axis(all_relevant, best, axis=1)

    def _relevant_in(self, first: int, last: int, columns: slice) -> np.ndarray:
        """Whether each item of a block is relevant to each of the queries `first` to `last`."""
        pairs = slice(self._offsets[first], self._offsets[last])
        item = self._pair_item[pairs]
        is_inside = (item >= columns.start) & (item < columns.stop)
        is_relevant = np.zeros((last - first, columns.stop - columns.start), bool)
        is_relevant[self._pair_query[pairs][is_inside] - first, item[is_inside] - columns.start] = True
        return is_relevant


def hit_rate(top: TopRelevance, k: int) -> float:
    """The usual Recall@K: the percentage of queries with *at least one* relevant item among the first K.

    >>> top = TopRelevance({0: [0, 1]}, items=3, k=3)
    >>> top.add(slice(0, 1), slice(0, 3), np.array([[0.9, 0.1, 0.5]]))
    >>> hit_rate(top, 2), recall_of_all(top, 2)
    (100.0, 50.0)
    """
    return 100 * float(np.mean(np.any(top.is_relevant[:, :k], axis=1)))


def recall_of_all(top: TopRelevance, k: int) -> float:
    """Recall@K as information retrieval defines it: how many of *all* relevant items are in the first K.

    A percentage of each query's relevant items, and the mean over queries. It cannot reach 100 where a query
    has more than K relevant items.
    """
    return 100 * float(np.mean(np.sum(top.is_relevant[:, :k], axis=1) / top.count))


def r_precision(top: TopRelevance) -> float:
    """The mean percentage of the first R items that are relevant, R being the query's number of these.

    >>> top = TopRelevance({0: [0, 1]}, items=3, k=3)
    >>> top.add(slice(0, 1), slice(0, 3), np.array([[0.9, 0.1, 0.5]]))
    >>> r_precision(top), map_at_r(top)
    (50.0, 50.0)
    """
    return 100 * float(np.mean(np.sum(_first_r(top), axis=1) / top.count))


def map_at_r(top: TopRelevance) -> float:
    """mAP@R (Musgrave et al., ECCV 2020): the mean over queries of

        1/R sum_{r = 1..R} [the item at rank r is relevant] * (relevant items among the first r) / r.

    As R-Precision, but errors at better ranks cost more.
    """
    first = _first_r(top)
    precision = np.cumsum(first, axis=1) / np.arange(1, first.shape[1] + 1)
    return 100 * float(np.mean(np.sum(precision * first, axis=1) / top.count))


def recalls_of_all(top: TopRelevance, ks: Sequence[int] = KS) -> dict[str, float]:
    """`recall_of_all` under names that cannot be taken for the usual recall: {"all_relevant_r1": ..}."""
    return {f"all_relevant_r{k}": recall_of_all(top, k) for k in ks}


def _first_r(top: TopRelevance) -> np.ndarray:
    """Where a relevant item is among a query's first R; ValueError if fewer were kept."""
    if top.count.max() > top.is_relevant.shape[1]:
        kept = top.is_relevant.shape[1]
        raise ValueError(f"k={kept}, but a query has {top.count.max()} relevant items")
    return top.is_relevant & (np.arange(top.is_relevant.shape[1]) < top.count[:, None])


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """The columns of the `k` highest scores of each row, best first."""
    some = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1)
    return np.take_along_axis(some, order, axis=1)
