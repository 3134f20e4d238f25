"""The Matcher as a notebook uses it: encodings of single items, scores, ranking, and what it refuses."""

import weakref
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jax_itm.checkpoint.checkpoints import Description
from jax_itm.config import Facts
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import make_mesh
from jax_itm.errors import UserError
from jax_itm.inference.inputs import image_batches
from jax_itm.inference.matcher import Matcher
from jax_itm.methods import Method, build, example_batch
from tests.helpers.methods import QUICK, small

CAPTIONS = ["a dog", "a dog sees a cat", "two cats", "the cat", "dogs and cats and dogs", ""]
BOX = np.array([[0.0, 0.0, 0.5, 1.0]], np.float32)


def matcher_of(devices=1, method="info_nce", **fields):
    config = small(method, **QUICK, **{"evaluate.batch_size": 4, **fields})
    tokenizer = Tokenizer.fit(CAPTIONS)
    facts = Facts(region_dim=12, vocab=len(tokenizer))
    model = build(config, facts)
    params = jax.jit(model.init)(jax.random.key(0), example_batch(config, facts))
    return Matcher(Description(config, facts, tokenizer), model, make_mesh(devices), params)


def regions(images=7):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(1 + k % 5, 12)).astype(np.float16) for k in range(images)]


def boxes_of(images):
    return [np.repeat(BOX, len(image), axis=0) for image in images]


@pytest.fixture(scope="module")
def matcher():
    return matcher_of()


def test_an_encoding_does_not_depend_on_its_batch(matcher):
    images = regions()
    boxes = boxes_of(images)
    together = matcher.encode_images(images, boxes)
    alone = [matcher.encode_images([image], [box])[0] for image, box in zip(images, boxes, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), np.ones(7), rtol=1e-5)
    texts = matcher.encode_texts(CAPTIONS)
    np.testing.assert_allclose(texts, [matcher.encode_texts([c])[0] for c in CAPTIONS], atol=1e-6)


def test_scores_are_equal_on_any_number_of_devices(matcher):
    scores = []
    for one in (matcher, matcher_of(devices=8)):
        images = one.encode_images(regions(), boxes_of(regions()))
        scores.append(one.score(images, one.encode_texts(CAPTIONS)))
    assert scores[0].shape == (7, 6)
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


def test_ranking_is_the_order_of_the_scores_and_ties_keep_the_images_order(matcher):
    doubled = regions(4) * 2
    images = matcher.encode_images(doubled, boxes_of(doubled))
    texts = matcher.encode_texts(CAPTIONS)
    ranking = matcher.rank(texts, images, k=5)
    scores = matcher.score(images, texts)
    assert ranking.indices.shape == ranking.scores.shape == (6, 5)
    for column, indices, best in zip(scores.T, *ranking, strict=True):
        assert indices.tolist() == [image for _, image in sorted(zip(-column, range(8), strict=True))][:5]
        np.testing.assert_array_equal(best, column[indices])
    assert matcher.rank(texts, images, k=100).indices.shape == (6, 8)


def test_pairs_have_their_scores_in_the_matrix():
    matcher = matcher_of(method="cdds")
    images = matcher.encode_images(regions(), boxes_of(regions()))
    texts = matcher.encode_texts(CAPTIONS)
    image_index = np.array([0, 6, 3, 3, 1])
    text_index = np.array([5, 0, 2, 1, 1])
    pairs = matcher.score_pairs(images, texts, image_index, text_index)
    np.testing.assert_allclose(pairs, matcher.score(images, texts)[image_index, text_index], rtol=1e-5)


PIXELS = np.zeros((8, 9, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "boxes", "message"),
    [
        (["a.jpg"], [BOX], "a.jpg: this run was trained on region features, not on picture files"),
        ([np.zeros((2, 11))], [BOX], r"image 0: this run was trained on regions \(r, 12\), not \(2, 11\)"),
        ([PIXELS], [BOX], r"image 0: .* not \(8, 9, 3\)"),
        ([np.zeros((1, 12)), np.zeros((0, 12))], [BOX, BOX], "image 1: 0 regions of float64, must be at"),
        ([np.full((1, 12), "x")], [BOX], "image 0: 1 regions of <U1"),
        ([np.full((1, 12), np.inf)], [BOX], "image 0: a region is not finite"),
        (["a.jpg"], None, "a.jpg: this run was trained on region features, not on picture files"),
        ([np.zeros((1, 12))], None, "boxes: this run was trained on the boxes of the regions, too"),
        ([np.zeros((1, 12))], [BOX, BOX], "boxes: of 2 images, but there are 1"),
        ([np.zeros((2, 12))], [BOX], "boxes of image 0: 1, but it has 2 regions"),
        ([np.zeros((1, 12))], [2 * BOX], "boxes of image 0: row 0 is not x1 y1 x2 y2"),
        ([], [], "nothing to encode"),
    ],
)
def test_regions_that_are_refused(matcher, images, boxes, message):
    with pytest.raises(UserError, match=message):
        matcher.encode_images(images, boxes)


def test_boxes_may_be_left_out_if_the_run_has_none():
    matcher = matcher_of(**{"image.boxes": False})
    assert matcher.encode_images(regions()).shape == (7, 16)
    assert matcher.encode_images(np.zeros((3, 2, 12))).shape == (3, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, i, t: m.rank(t, i, first=-1), "first=-1: must be 0 or more"),
        (lambda m, i, t: m.rank(t, i, first=2), "first=2: plain has no faster score"),
        (
            lambda m, i, t: m.score_pairs(i, t, np.zeros(1, int), np.zeros(1, int)),
            "plain is no cross-encoder",
        ),
        (lambda m, i, t: m.encode_texts(["a dog", "\ud83d"]), "caption 1: a caption has half of a surrogate"),
        (lambda m, i, t: m.encode_texts([]), "nothing to encode"),
    ],
)
def test_what_is_refused(matcher, call, message):
    """Of a method that has what a method must have, and no more."""
    names = [name for name in vars(Method) | Method.__annotations__ if not name.startswith("_")]
    plain = SimpleNamespace(**{name: getattr(matcher.method, name) for name in names} | {"label": "plain"})
    matcher = Matcher(matcher.description, plain, matcher.mesh, matcher.params)
    with pytest.raises(UserError, match=message):
        call(matcher, matcher.encode_images(regions(), boxes_of(regions())), matcher.encode_texts(CAPTIONS))


def test_few_pictures_are_in_memory_at_their_full_size():
    full = []

    def records():
        for value in range(10):
            pixels = np.full((40, 30, 3), value, np.uint8)
            full.append(weakref.ref(pixels))
            assert sum(picture() is not None for picture in full) <= 3
            yield {"pixels": pixels}

    config = small(**{"image.name": "vit", "data.modality": "pixels"})
    batches = list(image_batches(config, Facts(), records(), 8))
    assert [batch.count for batch in batches] == [8, 2]
    values = [batch.inputs["pixels"][:, 0, 0, 0].tolist() for batch in batches]
    assert values == [list(range(8)), [8] + [9] * 7]  # the last fills the last batch up
    assert {batch.inputs["pixels"].shape for batch in batches} == {(8, 16, 16, 3)}
