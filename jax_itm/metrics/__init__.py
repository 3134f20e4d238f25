"""Retrieval metrics in plain numpy: ranks and recalls, also from blocks of the similarity matrix.

>>> import numpy as np
>>> from jax_itm import metrics
>>> scores = np.array([[0.9, 0.2, 0.1], [0.3, 0.1, 0.8]])  # two images, three captions
>>> caption_image = np.array([0, 0, 1])  # the first two captions describe image 0
>>> metrics.recall(scores, caption_image, ks=(1,))["t2i"]["r1"]
100.0

A matrix that is too large to hold is fed to a `RetrievalCounter`, block by block. Nothing here needs JAX, but
scores may lie on devices and are compared there: `RetrievalCounter(.., compare=jax.jit(metrics.compare))`.
"""

from jax_itm.metrics.breakdown import by_label, length_labels, worst
from jax_itm.metrics.choices import class_ranks, first_is_best, group_scores, top_accuracy
from jax_itm.metrics.counter import RetrievalCounter
from jax_itm.metrics.hubness import QuerySums, csls, hubness, inverted_softmax, neighbour_mean
from jax_itm.metrics.judgements import correlations
from jax_itm.metrics.ranking import Counts, Ranks, compare, summary
from jax_itm.metrics.relevance import (
    TopRelevance,
    hit_rate,
    map_at_r,
    r_precision,
    recall_of_all,
    recalls_of_all,
)
from jax_itm.metrics.reranking import Candidates, TopCandidates, combine_scores, reranked
from jax_itm.metrics.retrieval import ranks, recall
from jax_itm.metrics.significance import Difference, Interval, differences, intervals

__all__ = [
    "Candidates",
    "Counts",
    "Difference",
    "Interval",
    "QuerySums",
    "Ranks",
    "RetrievalCounter",
    "TopCandidates",
    "TopRelevance",
    "by_label",
    "class_ranks",
    "combine_scores",
    "compare",
    "correlations",
    "csls",
    "differences",
    "first_is_best",
    "group_scores",
    "hit_rate",
    "hubness",
    "intervals",
    "inverted_softmax",
    "length_labels",
    "map_at_r",
    "neighbour_mean",
    "r_precision",
    "ranks",
    "recall",
    "recall_of_all",
    "recalls_of_all",
    "reranked",
    "summary",
    "top_accuracy",
    "worst",
]
