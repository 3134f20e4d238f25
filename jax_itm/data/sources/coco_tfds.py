"""COCO from the data set that TFDS itself prepares: `coco_captions/2014`, with Karpathy's splits."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.constants import get_default_data_dir

from jax_itm.data.image_transforms import MAX_PIXELS
from jax_itm.data.images import read_picture
from jax_itm.data.sources.karpathy import MAX_CAPTIONS, PUBLISHED, differing_counts
from jax_itm.data.sources.raw import Raw, Record, caption
from jax_itm.errors import UserError

SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


def read_coco_captions(max_pixels: int = MAX_PIXELS) -> Raw:
    """Pictures and captions of the splits "train" (with "restval"), "val" and "test".

    The set must have been prepared in TFDS's data directory (`TFDS_DATA_DIR`, or ~/tensorflow_datasets):
    nothing is downloaded here. Images of val and test keep their first five captions. `Raw.kind` is
    "karpathy".

    Raises:
        UserError: TFDS has not prepared it, or its files cannot be read.
    """
    home = Path(get_default_data_dir()).expanduser()
    versions = sorted((home / "coco_captions" / "2014").glob("*/dataset_info.json"))
    if not versions:
        raise UserError(
            f"--source: coco is made from raw files, as {home} has no coco_captions/2014 of TFDS:"
            f" {PUBLISHED['coco'].steps}; then --source DIR"
        )
    path = versions[-1].parent
    try:
        builder = tfds.builder_from_directory(os.fspath(path))
        sizes = builder.info.splits
        counts = {split: sum(sizes[part].num_examples for part in parts) for split, parts in SPLITS.items()}
    except Exception as error:  # TFDS raises exceptions of every kind
        raise UserError(f"{path}: not a readable coco_captions ({error})") from error
    notes = [
        f"val and test: the first {MAX_CAPTIONS} captions an image",
        *differing_counts(counts, PUBLISHED["coco"].counts),
    ]
    splits = {split: partial(_records, builder, split, max_pixels) for split in SPLITS}
    return Raw(splits, ("image",), kind="karpathy", notes=tuple(notes))


def _records(
    builder: Any, split: str, max_pixels: int, start: int = 0, stop: int | None = None
) -> Iterator[Record]:
    assert (start, stop) == (0, None)  # only a pipeline reads in parts, and it takes raw files
    for part in SPLITS[split]:
        for k, example in enumerate(_examples(builder, part)):
            name = example["image/filename"].decode()
            where = f"{builder.data_path}: {part}[{k}], {name}"
            captions = [caption(text.decode(), where) for text in example["captions"]["text"]]
            if not captions:
                raise UserError(f"{where}: empty caption")
            read_picture(example["image"], where, max_pixels)
            kept = captions if split == "train" else captions[:MAX_CAPTIONS]
            yield {"name": name, "captions": kept, "image": example["image"]}


def _examples(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """The examples as they are stored: pictures stay encoded."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    try:
        if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            yield from builder.as_data_source(split, decoders=decoders)
        else:
            yield from tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders))
    except UserError:
        raise
    except Exception as error:  # TensorFlow raises exceptions of every kind
        reason = str(error).split("\n", maxsplit=1)[0]
        raise UserError(f"{builder.data_path}: {split} cannot be read ({reason})") from error
