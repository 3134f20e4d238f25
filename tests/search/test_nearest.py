"""The nearest items, against sorting all scores."""

import numpy as np
import pytest

from jax_itm.search.nearest import ExactNearest


@pytest.mark.parametrize("k", [1, 5, 40, 100])
def test_exact_search_is_a_stable_sort_of_all_scores(k):
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, (40, 3)).astype(np.float32)  # small integers: many ties
    queries = rng.integers(-2, 3, (7, 3)).astype(np.float32)
    ids = np.arange(40, dtype=np.int64) * 3 + 5
    found = ExactNearest(ids, vectors).search(queries, k)
    assert found.ids.shape == (7, min(k, 40))
    for query, own, scores in zip(queries, found.ids, found.scores, strict=True):
        all_scores = {int(n): float(v @ query) for n, v in zip(ids, vectors, strict=True)}
        best = sorted(all_scores, key=lambda n: (-all_scores[n], n))[:k]
        assert own.tolist() == best
        assert scores.tolist() == [all_scores[n] for n in best]


def test_nothing_is_nearest_among_nothing():
    found = ExactNearest(np.zeros(0, np.int64), np.zeros((0, 3), np.float32)).search(
        np.ones((2, 3), np.float32), 5
    )
    assert found.ids.shape == (2, 0)
