"""What a protocol accepts, and where its name must be refused."""

import numpy as np
import pytest

from jax_itm.data.split import Split
from jax_itm.errors import UserError
from jax_itm.evaluation.bag_of_words import bag_of_words
from jax_itm.evaluation.evaluate import evaluate
from jax_itm.inference.matcher import Matcher
from jax_itm.protocols import PROTOCOLS, folds_of


class Sized(Split):
    """A split of which only its size can be read; anything else would fail."""

    def __init__(self, images: int, each: int):
        self.name = "coco"
        self.split = "test"
        self.images = images
        self.caption_image = np.repeat(np.arange(images), each)

    def __len__(self):
        return self.images


@pytest.mark.parametrize(
    ("name", "images", "captions", "folds"),
    [
        ("full", 7, 8, 1),
        ("folds", 1015, 5075, 5),
        ("coco_5k", 5000, 25000, 1),
        ("coco_1k", 5000, 25000, 5),
    ],
)
def test_folds(name, images, captions, folds):
    assert folds_of(name, images, captions, "x/test") == folds


@pytest.mark.parametrize(
    ("name", "images", "captions", "message"),
    [
        ("folds", 1014, 5070, "the 1,014 images of x/test cannot be divided into 5 equal folds"),
        ("coco_1k", 1000, 5000, "5,000 images with 25,000 captions, but x/test has 1,000 with 5,000"),
        ("coco_1k", 5000, 25010, "has 5,000 with 25,010"),
        ("coco_5k", 4999, 24995, "has 4,999 with 24,995"),
        ("1k", 5000, 25000, "must be one of full, folds, coco_5k, coco_1k"),
    ],
)
def test_other_sizes_are_refused(name, images, captions, message):
    with pytest.raises(UserError, match=message) as error:
        folds_of(name, images, captions, "x/test")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("function", [evaluate, lambda m, s, p: bag_of_words(m, s, s, p)])
def test_the_size_is_compared_before_anything_is_encoded(function):
    unused = Matcher.__new__(Matcher)  # has no attribute yet
    for name in set(PROTOCOLS) - {"full"}:
        with pytest.raises(UserError, match=f"protocol '{name}'.*coco/test"):
            function(unused, Sized(201, 5), name)
