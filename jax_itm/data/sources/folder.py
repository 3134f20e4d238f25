"""A folder of pictures with their captions."""

import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from jax_itm.data.image_transforms import MAX_PIXELS
from jax_itm.data.images import IMAGE_FORMATS, read_picture
from jax_itm.data.rgb import orientation
from jax_itm.data.sources.captions import (
    Splits,
    by_image,
    check_distinct,
    read_captions,
    sentence_ids,
    with_validation,
)
from jax_itm.data.sources.raw import Raw, Record
from jax_itm.errors import UserError

FOLDERS = ("", "images")
TURNED = "pictures turned upright by their EXIF"
TRANSPARENT = "pictures with transparency, put on white"
# How large a picture's file can be: 8 bytes a pixel (four channels of 16 bits), and 1 MiB of anything else.
BYTES_PER_PIXEL = 8
OVERHEAD = 2**20


def read_folder(source: Path, max_pixels: int = MAX_PIXELS) -> Raw:
    """A directory of pictures and a file of captions, or that file (paths are relative to it).

    Pictures are where their path in the captions says, in the directory or in its folder `images`. A set
    without `val` gets one (`with_validation`).

    Raises:
        UserError: what `read_captions` refuses, or a picture that is missing, unreadable, larger than
            `max_pixels`, or outside the directory.
    """
    table, splits, notes = read_captions(source)
    splits, shared = with_validation(splits)
    raw = read_pictures(table.parent, splits, FOLDERS, max_pixels)
    ids = sentence_ids(table, splits)
    return replace(raw, notes=(*notes, *shared), source_ids=ids, files=(table, *raw.files))


def read_pictures(
    base: Path, splits: Splits, folders: Sequence[str], max_pixels: int, by_name: bool = False
) -> Raw:
    """The records of pictures with their captions; looks for all pictures first.

    Args:
        base: the directory that the paths are relative to.
        splits: the captions of each picture.
        folders: where below `base` the pictures may be.
        max_pixels: how many pixels a picture may have.
        by_name: whether a picture may be there under its name alone, without the folders of its path.

    Raises:
        UserError: pictures are missing; it names the first of them, and says how many. Or two are one file.
    """
    paths = [path for images in splits.values() for path in images]
    files = {path: find_picture(base, path, folders, by_name) for path in paths}
    missing = [path for path, file in files.items() if file is None]
    if missing:
        refuse_missing(missing, len(files), base, folders)
    check_distinct({path: os.path.normpath(file) for path, file in files.items() if file})
    tally: Counter[str] = Counter()
    read = partial(_read_image, max_pixels=max_pixels, tally=tally)
    reads = {split: partial(_records, images, files, read) for split, images in splits.items()}
    found = tuple(file for file in files.values() if file)
    return Raw(reads, ("image",), captions=by_image(splits), tally=tally, files=found)


def _records(
    images: dict[str, list[str]],
    files: Mapping[str, Path | None],
    read: Callable[[Path], bytes | np.ndarray],
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Record]:
    for path, captions in islice(images.items(), start, stop):
        image = read(files[path] or Path(path))
        yield {"name": path, "captions": captions, "image": image}


def refuse_missing(
    missing: Sequence[str], total: int, base: Path, folders: Sequence[str], hint: str = ""
) -> NoReturn:
    """Raises UserError: names the first of the missing pictures, where they may be, and how many they are."""
    where = " or ".join(str(base / folder) for folder in folders)
    raise UserError(
        f"{missing[0]}: no such image in {where} ({len(missing):,} of {total:,} are missing{hint})"
    )


def find_picture(base: Path, path: str, folders: Sequence[str], by_name: bool = False) -> Path | None:
    """The file of a picture in the first folder that has it; UserError where the path leads out of `base`."""
    # Only the text of the path, which others wrote, is checked: a link in the folder may lead anywhere, as
    # people keep pictures on other disks. What it leads to is accepted only if it is a picture.
    if os.path.isabs(path) or os.path.normpath(path).split(os.sep)[0] == os.pardir:
        raise UserError(f"{path}: image paths must stay inside {base}")
    paths = [path]
    if by_name:
        name = os.path.basename(path)
        # COCO's releases of 2014 and 2017 have the same pictures; the names of 2017 lack the prefix.
        paths += [name, re.sub("^COCO_(train|val)2014_", "", name)]
    candidates = (base / folder / each for folder in folders for each in paths)
    # os.path.isfile, as Path.is_file fails on long names.
    return next((file for file in candidates if os.path.isfile(file)), None)


def _read_image(path: Path, max_pixels: int, tally: Counter[str]) -> bytes | np.ndarray:
    """The contents of a JPEG or PNG file, so that nothing is lost; the pixels of any other."""
    if (size := path.stat().st_size) > BYTES_PER_PIXEL * max_pixels + OVERHEAD:
        raise UserError(f"{path}: {size:,} bytes, too many for config.data.max_pixels={max_pixels}")
    data = path.read_bytes()
    pixels = read_picture(data, str(path), max_pixels)
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as picture:
        if orientation(picture) != 1:
            tally[TURNED] += 1
        if picture.has_transparency_data:
            tally[TRANSPARENT] += 1
        return data if picture.format in ("JPEG", "PNG") else pixels
