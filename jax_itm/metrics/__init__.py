"""Retrieval metrics in plain numpy: ranks and recalls of a similarity matrix that need not be held.

>>> import numpy as np
>>> from jax_itm import metrics
>>> scores = np.array([[0.9, 0.2, 0.1], [0.3, 0.1, 0.8]])  # two images, three captions
>>> caption_image = np.array([0, 0, 1])  # the first two captions describe image 0
>>> metrics.recall(scores, caption_image, ks=(1,))["t2i"]["r1"]
100.0

A matrix that is too large to hold is fed to a `RetrievalCounter`, block by block. Nothing here needs JAX, but
scores may lie on devices and are compared there: `RetrievalCounter(.., compare=jax.jit(metrics.compare))`.
"""

from jax_itm.metrics.counter import RetrievalCounter
from jax_itm.metrics.ranking import Counts, Ranks, compare, summary
from jax_itm.metrics.reranking import Candidates, TopCandidates, combine_scores, reranked
from jax_itm.metrics.retrieval import ranks, recall
from jax_itm.metrics.significance import Difference, Interval, differences, intervals

__all__ = [
    "Candidates",
    "Counts",
    "Difference",
    "Interval",
    "Ranks",
    "RetrievalCounter",
    "TopCandidates",
    "combine_scores",
    "compare",
    "differences",
    "intervals",
    "ranks",
    "recall",
    "reranked",
    "summary",
]
