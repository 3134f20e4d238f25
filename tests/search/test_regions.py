"""Where patches are in a picture, and which of them answer to a word."""

import numpy as np
import pytest

import jax_itm
from jax_itm.config import Facts, default
from jax_itm.data.image_transforms import ImageTransform, transform_image
from jax_itm.errors import UserError
from jax_itm.search.index import SearchIndex
from jax_itm.search.regions import patch_boxes, word_regions
from tests.helpers.searching import make, untrained_clip


@pytest.mark.parametrize(
    ("size", "transform"),
    [
        ((60, 100), ImageTransform((32, 32))),
        ((64, 128), ImageTransform((32,), (32, 32))),
        ((128, 64), ImageTransform((40,), (32, 32))),
    ],
)
def test_a_patch_is_where_the_transform_takes_it_from(size, transform):
    boxes, learnt = patch_boxes(default("info_nce"), Facts(), transform, size, 16)
    assert boxes.shape == (16, 4) and learnt == 0
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        pixels = np.zeros((*size, 3), np.uint8)
        top, bottom = round(y1 * size[0]), round(y2 * size[0])
        left, right = round(x1 * size[1]), round(x2 * size[1])
        pixels[top:bottom, left:right] = 255  # only this patch is white
        patches = transform_image(pixels, transform)[..., 0].reshape(4, 8, 4, 8).mean((1, 3)).ravel()
        assert patches[k] > 200 and np.delete(patches, k).max() < 60


def test_tokens_that_are_no_grid_are_refused():
    with pytest.raises(UserError, match="the 7 tokens of a picture are no grid"):
        patch_boxes(default("info_nce"), Facts(), ImageTransform((32, 32)), (32, 32), 7)


def test_words_meet_patches(tmp_path):
    run = untrained_clip(tmp_path)
    index = SearchIndex(make(tmp_path, run, count=4, score="maxmean"))
    hit = index.pictures_for_text("two cats", 1)[0]
    found = word_regions(index, "two cats", hit.id)
    assert "".join(found.words) == "twocats"
    matcher = jax_itm.load(run, score="maxmean")
    image = matcher.encode_images([index.images / hit.name])
    text = matcher.encode_texts(["two cats"])
    expected = np.asarray(text.tokens[0])[1 : len(found.words) + 1] @ np.asarray(image.tokens[0])[1:].T
    np.testing.assert_allclose(found.cosines, expected, atol=1e-5)  # without CLIP's own tokens
    assert found.boxes.shape == (found.cosines.shape[1], 4)
    with pytest.raises(UserError, match="picture 999: not in the index"):
        word_regions(index, "two cats", 999)


def test_a_score_of_vectors_has_no_regions(tmp_path):
    index = SearchIndex(make(tmp_path, untrained_clip(tmp_path), count=2))
    with pytest.raises(UserError, match="--score maxmean has them"):
        word_regions(index, "two cats", 1)
