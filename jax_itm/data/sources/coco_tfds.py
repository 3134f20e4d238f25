"""COCO from the set that TFDS itself prepares: `coco_captions/2014`, with Karpathy's splits."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.constants import get_default_data_dir

from jax_itm.data.images import MAX_PIXELS, read_picture
from jax_itm.data.sources.karpathy import FIRST, PUBLISHED, fewer
from jax_itm.data.sources.raw import Raw, Record, caption
from jax_itm.errors import UserError

SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


def read_coco_captions(max_pixels: int = MAX_PIXELS) -> Raw:
    """Pictures and captions of the splits "train" and "restval" (as train), "val" and "test".

    It must lie prepared in TFDS's data directory (`TFDS_DATA_DIR`, or ~/tensorflow_datasets): nothing is
    downloaded here. An image of val or test keeps its first five captions. `Raw.kind` is "karpathy".

    Raises:
        UserError: TFDS has not prepared it, or its files cannot be read.
    """
    home = Path(get_default_data_dir()).expanduser()
    found = sorted((home / "coco_captions" / "2014").glob("*/dataset_info.json"))
    if not found:
        raise UserError(
            f"--source: coco is made from raw files, as {home} holds no coco_captions/2014 of TFDS:"
            f" {PUBLISHED['coco'].steps}; then --source DIR"
        )
    path = found[-1].parent
    try:
        builder = tfds.builder_from_directory(os.fspath(path))
        counts = {split: sum(builder.info.splits[s].num_examples for s in of) for split, of in SPLITS.items()}
    except Exception as error:  # TFDS raises every kind
        raise UserError(f"{path}: not a readable coco_captions ({error})") from error
    notes = [f"val and test: the first {FIRST} captions an image", *fewer(counts, PUBLISHED["coco"].counts)]
    splits = {split: partial(_records, builder, split, max_pixels) for split in SPLITS}
    return Raw(splits, ("image",), kind="karpathy", notes=tuple(notes))


def _records(builder: Any, split: str, max_pixels: int) -> Iterator[Record]:
    for part in SPLITS[split]:
        for k, example in enumerate(_examples(builder, part)):
            name = example["image/filename"].decode()
            where = f"{builder.data_path}: {part}[{k}], {name}"
            captions = [caption(text.decode(), where) for text in example["captions"]["text"]]
            if not captions:
                raise UserError(f"{where}: empty caption")
            read_picture(example["image"], where, max_pixels)
            captions = captions if split == "train" else captions[:FIRST]
            yield {"name": name, "captions": captions, "image": example["image"]}


def _examples(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """The examples as they are stored, the pictures undecoded."""
    kept = {"image": tfds.decode.SkipDecoding()}
    try:
        if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            yield from builder.as_data_source(split, decoders=kept)
        else:
            yield from tfds.as_numpy(builder.as_dataset(split=split, decoders=kept))
    except UserError:
        raise
    except Exception as error:  # TensorFlow raises every kind
        raise UserError(f"{builder.data_path}: {split} cannot be read ({_first(error)})") from error


def _first(error: Exception) -> str:
    return str(error).split("\n", maxsplit=1)[0]
