"""The global batch at step k is a pure function of (seed, k), whoever reads it, and how."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jax_itm.data.batches import BatchOptions, ProcessShard, train_batches
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.order import captions_at
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError

IMAGES, EACH = 7, 3  # 21 captions: no batch size below divides them
OPTIONS = BatchOptions(8, seed=3, max_words=8, max_regions=5, transform=ImageTransform((16, 16)))


def batch_captions(size: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The captions of the global batch at a step."""
    return captions_at(size, seed, np.arange(step * batch_size, (step + 1) * batch_size))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A set of regions and one of pictures; image i's captions say so."""
    folder = tmp_path_factory.mktemp("pipeline")
    raw, pictures = folder / "raw", folder / "pictures"
    raw.mkdir(), pictures.mkdir()
    regions = np.arange(IMAGES, dtype=np.float32)[:, None, None] * np.ones((1, 4, 6), np.float32)
    np.save(raw / "train_ims.npy", regions)
    captions = [f"image {i} caption {c}" for i in range(IMAGES) for c in range(EACH)]
    (raw / "train_caps.txt").write_text("\n".join(captions) + "\n")
    rows = ["path,caption"]
    for i in range(3):
        Image.new("RGB", (20 + i, 10), (i, 100, 200)).save(pictures / f"{i}.png")
        rows.append(f"{i}.png,image {i}")
    (pictures / "captions.csv").write_text("\n".join(rows))
    prepare("precomp", folder / "data", raw)
    prepare("folder", folder / "data", pictures)
    return folder / "data"


@pytest.fixture(scope="module")
def split(data_dir):
    return open_split("precomp", data_dir, "train", "regions")


@pytest.fixture(scope="module")
def tokenizer(split):
    return Tokenizer.fit(split.captions())


def take(count, split, tokenizer, options=OPTIONS, **how):
    return list(itertools.islice(train_batches(split, tokenizer, options, **how), count))


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_batch(split, tokenizer):
    (batch,) = take(1, split, tokenizer)
    image, text = batch["image"], batch["text"]
    assert image["regions"].shape == (8, 5, 6) and image["regions"].dtype == np.float16
    assert image["boxes"].shape == (8, 5, 4) and image["boxes"].dtype == np.float32
    assert image["mask"].shape == (8, 5) and np.all(image["mask"].sum(1) == 4)
    assert text["ids"].shape == text["mask"].shape == (8, 8) and text["ids"].dtype == np.int32
    assert batch["image_id"].shape == (8,) and batch["image_id"].dtype == np.int32
    # Each caption stands beside its own image.
    np.testing.assert_array_equal(image["regions"][:, 0, 0], batch["image_id"])
    captions = [split.captions()[c] for c in batch_captions(21, 8, 3, 0)]
    assert [int(caption.split()[1]) for caption in captions] == batch["image_id"].tolist()
    np.testing.assert_array_equal(text["ids"], tokenizer.encode(captions, 8)[0])


def test_every_caption_once_an_epoch_and_no_gap_between_epochs():
    stream = np.concatenate([batch_captions(21, 8, 3, step) for step in range(21)])
    epochs = stream.reshape(8, 21)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(21))
    assert len({tuple(epoch) for epoch in epochs}) == 8
    other = np.concatenate([batch_captions(21, 8, 4, step) for step in range(21)])
    assert not np.array_equal(stream, other)


def test_stream_does_not_depend_on_the_batch_size():
    small = np.concatenate([batch_captions(21, 5, 0, step) for step in range(20)])
    large = np.concatenate([batch_captions(21, 50, 0, step) for step in range(2)])
    np.testing.assert_array_equal(small, large)


def test_order_is_frozen():
    # A run that resumes with a newer numpy must see the same order.
    np.testing.assert_array_equal(batch_captions(21, 6, 1, 5), [20, 1, 2, 18, 12, 3])


def test_resume_sees_the_same_batches(split, tokenizer):
    expected = take(9, split, tokenizer)
    for step in (1, 5):
        assert_equal(take(3, split, tokenizer, first_step=step), expected[step:][:3])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_slices_make_the_global_batch(split, tokenizer, hosts):
    expected = take(4, split, tokenizer)
    parts = [take(4, split, tokenizer, shard=ProcessShard(h, hosts)) for h in range(hosts)]
    for step, batch in enumerate(expected):
        slices = [part[step] for part in parts]
        assert_equal(jax.tree.map(lambda *rows: np.concatenate(rows), *slices), batch)


def test_worker_processes_give_the_same(split, tokenizer):
    expected = take(5, split, tokenizer)
    assert_equal(take(5, split, tokenizer, workers=2), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_the_data_reach_the_reader(split, tokenizer, workers):
    with pytest.raises(UserError, match=r"max_regions=2: an image has 4 regions"):
        take(1, split, tokenizer, OPTIONS._replace(max_regions=2), workers=workers)


def test_pixels_are_resized(data_dir, tokenizer):
    split = open_split("folder", data_dir, "train", "pixels")
    (batch,) = take(1, split, tokenizer, OPTIONS._replace(batch_size=3))
    pixels = batch["image"]["pixels"]
    assert pixels.shape == (3, 16, 16, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[:, 5, 5, 0], batch["image_id"])


EARLY = """
from jax_itm import data

def main():
    split = data.open_split("precomp", {data_dir!r}, "train", "regions")
    options = data.BatchOptions(8, 0, max_words=8, max_regions=5, transform=data.ImageTransform((16, 16)))
    batches = data.train_batches(split, data.Tokenizer.fit(split.captions()), options, workers={workers})
    next(batches)
    if {close}:
        batches.close()

if __name__ == "__main__":
    main()
    print("ended")
"""


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("close", [True, False])
def test_an_early_end_does_not_hang(data_dir, tmp_path, workers, close):
    script = tmp_path / "early.py"
    script.write_text(EARLY.format(data_dir=str(data_dir), workers=workers, close=close))
    command = [sys.executable, str(script)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert run.stdout == "ended\n" and run.returncode == 0, run.stderr


UNGUARDED = """
from jax_itm import data
split = data.open_split("precomp", {data_dir!r}, "train", "regions")
options = data.BatchOptions(8, 0, max_words=8, max_regions=5, transform=data.ImageTransform((16, 16)))
next(data.train_batches(split, data.Tokenizer.fit(split.captions()), options, workers=1))
"""


def test_a_script_without_a_main_guard_is_told_so(data_dir, tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED.format(data_dir=str(data_dir)))
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=120)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1 and "UserError: config.data.workers=1: Worker process was terminated" in last
    assert 'lacks `if __name__ == "__main__":`' in last
