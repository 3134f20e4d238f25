"""Training sees random crops and flips, the same ones whoever reads; evaluation never does."""

import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from jax_itm.config.load import check, default
from jax_itm.data.augment import Augmentation, augment_image
from jax_itm.data.batches import BatchOptions, ProcessShard, train_batches
from jax_itm.data.image_transforms import ImageTransform, transform_image
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import make_mesh
from jax_itm.errors import UserError
from jax_itm.train.loop import training_batches
from jax_itm.train.run import build

IMAGES = 7
TRANSFORM = ImageTransform((16, 16))
AUGMENTATION = Augmentation((0.2, 0.9), 0.5)
OPTIONS = BatchOptions(8, 3, max_words=8, max_regions=0, transform=TRANSFORM, augmentation=AUGMENTATION)


def slope(height: int, width: int) -> np.ndarray:
    """A picture whose red channel is the column and whose green channel is the row."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([columns, rows, 0 * rows], axis=2)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Seven pictures with two captions each, in two splits."""
    folder = tmp_path_factory.mktemp("augment")
    rng, lines = np.random.default_rng(0), ["path,caption,split"]
    for k in range(IMAGES + 4):
        Image.fromarray(rng.integers(0, 256, (30, 24 + k, 3), np.uint8)).save(folder / f"{k}.png")
        lines += [f"{k}.png,picture {k} {word},{'train' if k < IMAGES else 'val'}" for word in "ab"]
    (folder / "captions.csv").write_text("\n".join(lines))
    prepare("folder", folder / "data", folder)
    return folder / "data"


@pytest.fixture(scope="module")
def split(data_dir):
    return open_split("folder", data_dir, "train", "pixels")


def take(split, steps: range, options: BatchOptions = OPTIONS, **how) -> np.ndarray:
    """The pixels of training batches, one after another."""
    tokenizer = Tokenizer.fit(split.captions())
    batches = train_batches(split, tokenizer, options, first_step=steps.start, **how)
    return np.concatenate([batch["image"]["pixels"] for batch in itertools.islice(batches, len(steps))])


def test_the_position_in_the_stream_decides_whoever_reads(split):
    expected = take(split, range(6))
    assert expected.shape == (48, 16, 16, 3) and expected.dtype == np.uint8
    np.testing.assert_array_equal(take(split, range(2, 6)), expected[16:])  # a run that resumes
    np.testing.assert_array_equal(take(split, range(6), workers=2), expected)
    np.testing.assert_array_equal(take(split, range(3), OPTIONS._replace(batch_size=16)), expected)
    parts = [take(split, range(6), shard=ProcessShard(h, 2)).reshape(6, 4, -1) for h in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1).reshape(expected.shape), expected)
    assert (
        len(np.unique(expected.reshape(48, -1), axis=0)) == 48
    )  # seven pictures, and each time another crop
    assert not np.array_equal(take(split, range(6), OPTIONS._replace(seed=4)), expected)


def test_random_crops_are_frozen():
    # A run that resumes with a newer numpy must see the same crops.
    pixels = augment_image(slope(200, 100), ImageTransform((3, 3)), AUGMENTATION, 1, 2**33)
    np.testing.assert_array_equal(pixels[1, :, 0], [79, 53, 27])
    np.testing.assert_array_equal(pixels[:, 1, 1], [60, 93, 126])


def test_crops_have_the_configured_areas_and_ratios_and_uniform_positions():
    size, count, fractions = 256, 1500, (0.1, 0.5)
    seen = [
        augment_image(slope(size, size), ImageTransform((32, 32)), Augmentation(fractions, 0.25), 0, k)
        for k in range(count)
    ]
    ends = np.stack([(x[16, 4, 0], x[16, 27, 0], x[4, 16, 1], x[27, 16, 1]) for x in seen]).astype(float)
    left, right, top, bottom = ends.T
    assert abs(np.mean(right < left) - 0.25) < 0.04  # mirrored
    width, height = np.abs(right - left) * 32 / 23, (bottom - top) * 32 / 23
    area, ratio = width * height / size**2, np.log(width / height)
    for values, low, high in ((area, *fractions), (ratio, np.log(3 / 4), np.log(4 / 3))):
        assert abs(values.min() - low) < 0.03 and abs(values.max() - high) < 0.03
        wanted = low + (high - low) * np.array([0.25, 0.5, 0.75])
        np.testing.assert_allclose(
            np.quantile(values, [0.25, 0.5, 0.75]), wanted, atol=0.03 * (high - low) + 0.01
        )
    for first, last, length in ((left, right, width), (top, bottom, height)):
        begin = np.minimum(first, last) + 0.5 - 4.5 / 32 * length
        where = begin / (size - length)
        np.testing.assert_allclose(np.quantile(where, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.05)


def test_a_long_picture_in_which_no_crop_fits_loses_its_ends():
    pixels = augment_image(slope(20, 200), ImageTransform((20, 27)), Augmentation((0.9, 1.0), 0.0), 0, 0)
    np.testing.assert_array_equal(pixels, slope(20, 200)[:, 86:113])


def test_without_crops_the_image_transform_is_that_of_evaluation():
    picture, transform = slope(40, 60), ImageTransform((24,), (20, 20))
    pixels = augment_image(picture, transform, Augmentation(flip=1.0), 0, 0)
    np.testing.assert_array_equal(pixels[:, ::-1], transform_image(picture, transform))


def test_a_run_trains_on_crops_and_validates_on_complete_pictures(data_dir, split, tmp_path):
    config = default("vsepp")
    config.data.update({"name": "folder", "data_dir": str(data_dir), "modality": "pixels", "image_size": 16})
    config.image.update({"name": "vit", "width": 8, "layers": 1, "heads": 1, "patch": 8})
    config.text.name, config.dim, config.batch_size, config.evaluate.batch_size = "bow", 8, 8, 8
    config.image.augment.crop = (0.2, 0.9)
    check(config)
    run = build(config, str(tmp_path), make_mesh(1))
    seen = next(training_batches(run, 0))["image"]["pixels"]
    options = OPTIONS._replace(augmentation=Augmentation((0.2, 0.9)), seed=config.seed)
    np.testing.assert_array_equal(seen, take(split, range(1), options))
    unchanged = take(split, range(1), options._replace(augmentation=None))
    assert not any(np.array_equal(*pair) for pair in zip(seen, unchanged, strict=True))
    run.matcher.params = run.state.params
    records = [run.data.validation.image(k) for k in range(4)]
    pixels = np.stack([transform_image(record["pixels"], TRANSFORM) for record in records])
    wanted = (
        run.model.method.encoders.modules["image"]
        .apply({"params": run.state.params["image"]}, {"pixels": jax.numpy.asarray(pixels)})
        .embedding
    )
    embedding = jax.tree.leaves(run.matcher.encode_records(records))[0]
    np.testing.assert_allclose(embedding, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"crop": (0.5,)},
            r"config\.image\.augment\.crop=\(0\.5,\): must be the smallest and the largest fraction",
        ),
        ({"crop": (0.9, 0.5)}, r"crop=\(0\.9, 0\.5\): must be"),
        ({"crop": (0.0, 1.0)}, r"crop=\(0\.0, 1\.0\): must be"),
        ({"crop": ("a", 1.0)}, r"crop=\('a', 1\.0\): must be"),
        ({"flip": 1.5}, r"config\.image\.augment\.flip=1\.5: must be at most 1"),
        ({"flip": 0.5}, r"config\.image\.augment\.flip: needs config\.data\.modality='pixels'"),
    ],
)
def test_what_no_run_could_use_is_refused(fields, message):
    config = default("vsepp")
    config.image.augment.update(fields)
    with pytest.raises(UserError, match=message):
        check(config)


def test_tokens_made_once_are_not_augmented():
    config = default("vsepp")
    config.image.update({"name": "pretrained", "path": "DIR", "frozen": True, "cached": True})
    config.data.modality, config.image.augment.crop = "pixels", (0.9, 1.0)
    with pytest.raises(UserError, match=r"config\.image\.augment\.crop: cached tokens"):
        check(config)
