"""Re-ranking all items is the exhaustive ranking; re-ranking some leaves the others behind."""

import numpy as np
import pytest

from jax_itm import metrics
from jax_itm.metrics import RetrievalCounter, TopCandidates, combine_scores, reranked

IMAGES, CAPTIONS = np.arange(6), np.arange(12)
CAPTION_IMAGE = np.repeat(IMAGES, 2)


def with_ties():
    return np.random.default_rng(0).normal(size=(2, 6, 12)).round(1)


def top_of(scores, k):
    top = TopCandidates(6, 12, k)
    for rows, columns in RetrievalCounter(CAPTION_IMAGE).blocks(4):
        top.add(rows, columns, scores[rows, columns])
    return top


def new_ranks(first, second, k):
    top = top_of(first, k)
    before = metrics.ranks(first, CAPTION_IMAGE)
    is_match = CAPTION_IMAGE[top.captions] == IMAGES[:, None]
    i2t = reranked(before.i2t, is_match, second[IMAGES[:, None], top.captions])
    t2i = reranked(before.t2i, top.images == CAPTION_IMAGE[:, None], second[top.images, CAPTIONS[:, None]])
    return i2t, t2i, is_match


@pytest.mark.parametrize("k", [12, 100])
def test_reranking_all_items_is_the_exhaustive_ranking(k):
    first, second = with_ties()
    i2t, t2i, _ = new_ranks(first, second, k)
    expected = metrics.ranks(second, CAPTION_IMAGE)
    np.testing.assert_array_equal(i2t, expected.i2t)
    np.testing.assert_array_equal(t2i, expected.t2i)


def test_what_is_not_among_the_candidates_stays_behind_them():
    first, second = with_ties()
    i2t, _, is_match = new_ranks(first, second, 3)
    before = metrics.ranks(first, CAPTION_IMAGE).i2t
    is_behind = ~np.any(is_match, axis=1)
    assert is_behind.any() and not is_behind.all()
    np.testing.assert_array_equal(i2t[is_behind], before[is_behind])
    assert np.all(before[is_behind] > 3) and np.all(i2t[~is_behind] <= 3)


def test_candidates_are_the_best_of_any_blocks():
    first, _ = with_ties()
    top = top_of(first, 3)
    np.testing.assert_array_equal(np.sort(first, axis=1)[:, ::-1][:, :3], top.caption_scores)
    np.testing.assert_array_equal(top.caption_scores, first[IMAGES[:, None], top.captions])
    np.testing.assert_array_equal(np.sort(first, axis=0)[::-1][:3].T, top.image_scores)
    np.testing.assert_array_equal(top.image_scores, first[top.images, CAPTIONS[:, None]])


def test_combined_scores_have_no_units():
    """Both scores count by their spread among a query's candidates, whatever their scale and offset."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 4))
    spread = lambda x: np.sqrt(sum(sum((v - sum(row) / 4) ** 2 for v in row) / 4 for row in x) / 5)
    actual = combine_scores(a, b, 2.0)
    np.testing.assert_allclose(actual, a / spread(a) + 2 * b / spread(b), rtol=1e-12)
    order = lambda x: np.argsort(x, axis=1)
    offset = rng.normal(size=(5, 1))  # a query's own, which no order sees
    np.testing.assert_array_equal(order(combine_scores(7 * a + offset, 0.01 * b, 2.0)), order(actual))
    assert combine_scores(a, b, 0.0) is a
    np.testing.assert_array_equal(order(combine_scores(0 * a, b, 1.0)), order(b))  # no spread: no say
