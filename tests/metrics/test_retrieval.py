"""Ranks of matrices whose ranks are known, against a loop, and for any blocks and folds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm import metrics
from jax_itm.errors import UserError
from jax_itm.metrics import RetrievalCounter


def loop(scores, caption_image):
    images, captions = scores.shape
    i2t, t2i = [], []
    for i in range(images):
        best = max(scores[i, t] for t in range(captions) if caption_image[t] == i)
        i2t.append(1 + sum(scores[i, t] >= best for t in range(captions) if caption_image[t] != i))
    for t in range(captions):
        own = scores[caption_image[t], t]
        t2i.append(1 + sum(scores[i, t] >= own for i in range(images) if i != caption_image[t]))
    return i2t, t2i


def fed(scores, caption_image, images_per_block=1000, **options):
    counter = RetrievalCounter(np.asarray(caption_image), **options)
    for rows, columns in counter.blocks(images_per_block):
        counter.add(rows, columns, scores[rows, columns])
    return counter


def with_ties(seed, images=11):
    rng = np.random.default_rng(seed)
    caption_image = np.repeat(np.arange(images), rng.integers(1, 5, images))
    return rng.integers(0, 6, (images, len(caption_image))).astype(np.float32), caption_image


def test_known_ranks_with_ties():
    scores = np.array([[0.9, 0.1, 0.9, 0.2], [0.9, 0.3, 0.5, 0.4]])
    i2t, t2i = metrics.ranks(scores, np.array([0, 0, 1, 1]))
    assert i2t.tolist() == [2, 2]  # 0.9 tied by another image's caption; 0.5 under 0.9
    assert t2i.tolist() == [2, 2, 2, 1]  # 0.9 tied, 0.1 < 0.3, 0.5 < 0.9, 0.4 > 0.2


def test_all_scores_equal_is_the_worst_rank_and_not_the_best():
    result = metrics.recall(np.zeros((20, 100)), np.repeat(np.arange(20), 5))
    assert result["i2t"]["r10"] == result["t2i"]["r10"] == result["rsum"] == 0
    assert result["i2t"]["medr"] == 96 and result["t2i"]["medr"] == 20


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 3, 100])
def test_any_blocks_give_the_ranks_of_the_loop(seed, size):
    scores, caption_image = with_ties(seed)
    i2t, t2i = fed(scores, caption_image, size).ranks()
    expected = loop(scores, caption_image)
    assert i2t.tolist() == expected[0] and t2i.tolist() == expected[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("compare", [metrics.compare, jax.jit(metrics.compare)])
def test_scores_on_devices_have_the_same_ranks(compare, dtype):
    scores, caption_image = with_ties(0)
    i2t, t2i = fed(jnp.asarray(scores, dtype), caption_image, 4, compare=compare).ranks()
    expected = loop(scores, caption_image)
    assert i2t.tolist() == expected[0] and t2i.tolist() == expected[1]


def test_a_matrix_and_its_blocks_have_one_recall():
    scores, caption_image = with_ties(1)
    slices = list(RetrievalCounter(caption_image).blocks(4))
    assert len(slices) == 9
    blocks = ((rows, columns, scores[rows, columns]) for rows, columns in slices)
    expected = metrics.summary(metrics.Ranks(*map(np.array, loop(scores, caption_image))))
    assert metrics.recall(blocks, caption_image) == metrics.recall(scores, caption_image) == expected
    assert metrics.recall(jnp.asarray(scores), caption_image) == expected


def test_recalls_are_percentages_of_ranks():
    ranks = metrics.Ranks(np.array([1, 2, 6, 11]), np.array([1, 1]))
    result = metrics.summary(ranks)
    assert result["i2t"] == {"r1": 25, "r5": 50, "r10": 75, "medr": 4, "meanr": 5}
    assert result["rsum"] == 25 + 50 + 75 + 300
    assert metrics.summary(ranks, ks=(2,))["rsum"] == 50 + 100


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(2, 1), (2, 2)])
def test_a_score_that_is_not_finite_is_an_error(value, place):
    scores = np.eye(4)
    scores[place] = value
    with pytest.raises(UserError, match=r"2:4 x .* are not all finite"):
        fed(scores, np.arange(4), 2)


def test_folds_are_the_mean_of_equal_parts():
    rng = np.random.default_rng(0)
    scores, caption_image = rng.random((10, 20)), np.repeat(np.arange(10), 2)
    parts = [scores[2 * k : 2 * k + 2, 4 * k : 4 * k + 4] for k in range(5)]
    each = [metrics.recall(part, np.array([0, 0, 1, 1])) for part in parts]
    for size in (1, 1000):
        counter = fed(scores, caption_image, size, folds=5)
        result = counter.result()
        np.testing.assert_allclose(result["rsum"], np.mean([one["rsum"] for one in each]))
        np.testing.assert_allclose(result["i2t"]["medr"], np.mean([one["i2t"]["medr"] for one in each]))
        ranks = [metrics.ranks(part, np.array([0, 0, 1, 1])) for part in parts]
        np.testing.assert_array_equal(counter.ranks().t2i, np.concatenate([one.t2i for one in ranks]))
    assert metrics.recall(scores, caption_image, folds=5) == result
    with pytest.raises(UserError, match="9 images cannot be divided into 5"):
        metrics.recall(scores[:9, :18], caption_image[:18], folds=5)
    with pytest.raises(ValueError, match="0:10 x 0:20 is not in one fold"):
        RetrievalCounter(caption_image, folds=5).add(slice(0, 10), slice(0, 20), scores)
    with pytest.raises(ValueError, match="2:4 x 0:4 is not in one fold"):
        RetrievalCounter(caption_image, folds=5).add(slice(2, 4), slice(0, 4), scores[2:4, :4])


def test_blocks_out_of_order_or_missing_are_errors():
    scores, caption_image = np.random.default_rng(0).random((4, 4)), np.arange(4)
    slices = list(RetrievalCounter(caption_image).blocks(2))
    blocks = [(rows, columns, scores[rows, columns]) for rows, columns in slices]
    with pytest.raises(ValueError, match=r"before its positives, or again: feed .* RetrievalCounter\.blocks"):
        metrics.ranks(blocks[::-1], caption_image)
    with pytest.raises(ValueError, match="12 scores were added"):
        metrics.ranks(blocks[:-1], caption_image)
    with pytest.raises(ValueError, match="not each of 16 once"):  # as many scores as there should be
        metrics.ranks([*blocks[:-1], blocks[-2]], caption_image)
    with pytest.raises(ValueError, match="or again"):
        metrics.ranks([*blocks, blocks[0]], caption_image)
    with pytest.raises(ValueError, match=r"0:2 x 0:2 has scores of shape \(2, 1\)"):
        metrics.ranks([(*slices[0], scores[:2, :1])], caption_image)


def test_an_images_captions_in_two_blocks_are_an_error():
    """Its best caption may come last, when others were already counted against a worse one."""
    scores, caption_image = np.array([[0.1, 0.9, 0.5], [0.2, 0.3, 0.6]]), np.array([0, 0, 1])
    ranges = [((1, 2), (2, 3)), ((0, 1), (0, 1)), ((0, 1), (2, 3)), ((0, 1), (1, 2)), ((1, 2), (0, 2))]
    slices = [(slice(*rows), slice(*columns)) for rows, columns in ranges]
    with pytest.raises(ValueError, match="0:1 x 0:1 came before its positives"):
        metrics.ranks([(r, c, scores[r, c]) for r, c in slices], caption_image)


def test_slices_may_end_beyond_the_matrix():
    counter = RetrievalCounter(np.arange(4))
    counter.add(slice(None), slice(0, 100), np.eye(4))
    assert counter.result()["rsum"] == 600


@pytest.mark.parametrize(
    ("caption_image", "message"),
    [
        ([0, 2], "image 1 has no caption"),
        ([1, 1], "image 0 has no caption"),
        ([1, 0], "must be ascending"),
        ([-1, 0], "must be ascending"),
        ([0.0, 1.0], r"must be integers \(captions,\), not float64"),
        ([[0, 1]], r"not int64 \(1, 2\)"),
        ([], "must be integers"),
        ([0, 1], r"shape \(3, 2\), but caption_image has 2 images and 2 captions"),
    ],
)
def test_what_caption_image_must_be(caption_image, message):
    with pytest.raises(ValueError, match=message):
        metrics.recall(np.zeros((3, 2)), np.array(caption_image))
