"""Ranks on matrices whose ranks are known, against a loop, and whatever the blocks."""

import numpy as np
import pytest

from jax_itm.errors import UserError
from jax_itm.metrics import retrieval


def of(scores, caption_image, **options):
    scores = np.asarray(scores, np.float32)
    block = lambda i, t: scores[slice(*i), slice(*t)]
    return retrieval.evaluate(block, np.asarray(caption_image), **options)


def ranks(scores, caption_image, size=1000):
    scores, caption_image = np.asarray(scores), np.asarray(caption_image)
    plan = retrieval.block_plan(caption_image, size)
    return retrieval.ranks(((r, c, scores[slice(*r), slice(*c)]) for r, c in plan), caption_image)


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


def test_known_ranks_with_ties():
    scores = [[0.9, 0.1, 0.9, 0.2], [0.9, 0.3, 0.5, 0.4]]
    i2t, t2i = ranks(scores, [0, 0, 1, 1])
    assert i2t.tolist() == [2, 2]  # 0.9 tied by another image's caption; 0.5 under 0.9
    assert t2i.tolist() == [2, 2, 2, 1]  # 0.9 tied, 0.1 < 0.3, 0.5 < 0.9, 0.4 > 0.2


def test_all_scores_equal_is_the_worst_rank_and_not_the_best():
    found = of(np.zeros((20, 100)), np.repeat(np.arange(20), 5))
    assert found["i2t"]["r10"] == found["t2i"]["r10"] == found["rsum"] == 0
    assert found["i2t"]["medr"] == 96 and found["t2i"]["medr"] == 20


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 3, 100])
def test_any_blocks_give_the_ranks_of_the_loop(seed, size):
    rng = np.random.default_rng(seed)
    caption_image = np.repeat(np.arange(11), rng.integers(1, 5, 11))
    scores = rng.integers(0, 6, (11, len(caption_image))).astype(np.float32)  # many ties
    found = ranks(scores, caption_image, size)
    expected = loop(scores, caption_image)
    assert found[0].tolist() == expected[0] and found[1].tolist() == expected[1]


def test_recalls_are_percentages_of_ranks():
    found = retrieval.metrics(np.array([1, 2, 6, 11]), np.array([1, 1]))
    assert found["i2t"] == {"r1": 25, "r5": 50, "r10": 75, "medr": 4, "meanr": 5}
    assert found["rsum"] == 25 + 50 + 75 + 300


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_an_error(value):
    scores = np.eye(4)
    scores[2, 1] = value
    with pytest.raises(UserError, match="not all finite"):
        of(scores, np.arange(4), images_per_block=2)


def test_folds_are_the_mean_of_equal_parts():
    rng = np.random.default_rng(0)
    scores, caption_image = rng.random((10, 20)), np.repeat(np.arange(10), 2)
    parts = [of(scores[2 * k : 2 * k + 2, 4 * k : 4 * k + 4], [0, 0, 1, 1])["rsum"] for k in range(5)]
    np.testing.assert_allclose(of(scores, caption_image, protocol="folds")["rsum"], np.mean(parts))
    with pytest.raises(UserError, match="9 images do not make 5"):
        of(scores[:9, :18], caption_image[:18], protocol="folds")


def test_blocks_out_of_order_or_missing_are_errors():
    scores, caption_image = np.random.default_rng(0).random((4, 4)), np.arange(4)
    plan = retrieval.block_plan(caption_image, 2)
    blocks = [(r, c, scores[slice(*r), slice(*c)]) for r, c in plan]
    with pytest.raises(ValueError, match="before its positives"):
        retrieval.ranks(blocks[::-1], caption_image)
    with pytest.raises(ValueError, match="12 scores seen"):
        retrieval.ranks(blocks[:-1], caption_image)
    with pytest.raises(ValueError, match="not each once"):  # as many scores as there should be
        retrieval.ranks([*blocks[:-1], blocks[-2]], caption_image)
    with pytest.raises(ValueError, match="or again"):
        retrieval.ranks([*blocks, blocks[0]], caption_image)
    with pytest.raises(ValueError, match=r"0:2 x 0:2 has scores of shape \(2, 1\)"):
        retrieval.ranks([(*plan[0], scores[:2, :1])], caption_image)


def test_an_images_captions_in_two_blocks_are_an_error():
    """Its best caption may come last, when others were already counted against a worse one."""
    scores, caption_image = np.array([[0.1, 0.9, 0.5], [0.2, 0.3, 0.6]]), np.array([0, 0, 1])
    ranges = [((1, 2), (2, 3)), ((0, 1), (0, 1)), ((0, 1), (2, 3)), ((0, 1), (1, 2)), ((1, 2), (0, 2))]
    with pytest.raises(ValueError, match="0:1 x 0:1 came before its positives"):
        retrieval.ranks([(r, c, scores[slice(*r), slice(*c)]) for r, c in ranges], caption_image)


def test_an_image_without_captions_or_an_unknown_protocol_is_an_error():
    with pytest.raises(ValueError, match="image 1 has no caption"):
        of(np.zeros((3, 2)), [0, 2])
    with pytest.raises(ValueError, match="protocol '1k'"):
        of(np.eye(5), np.arange(5), protocol="1k")
