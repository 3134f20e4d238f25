"""A folder of pictures with their captions."""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from jax_itm.data.images import FORMATS, MAX_PIXELS, read_picture
from jax_itm.data.sources.captions import Splits, by_image, read_captions
from jax_itm.data.sources.raw import Raw, Read, Record
from jax_itm.errors import UserError

FOLDERS = ("", "images")
BYTES, MARGIN = 8, 2**20  # of a picture's file: the most a pixel, four of 16 bits, and what else it holds


def read_folder(source: Path, max_pixels: int = MAX_PIXELS) -> Raw:
    """A directory of pictures and a file of captions, or that file (paths are relative to it).

    Pictures lie where their path in the captions says, in the directory or in its folder `images`.

    Raises:
        UserError: what `read_captions` refuses, or a picture that is missing, unreadable, of more than
            `max_pixels`, or outside of the directory.
    """
    table, splits = read_captions(source)
    return Raw(pictures(table.parent, splits, FOLDERS, max_pixels), ("image",), captions=by_image(splits))


def pictures(
    base: Path, splits: Splits, folders: Sequence[str], max_pixels: int, names: bool = False
) -> dict[str, Read]:
    """How to read each split's records with their pictures, for `Raw`; finds all of them first.

    Args:
        base: the directory that the paths are relative to.
        splits: the captions of each picture.
        folders: where below `base` pictures may lie.
        max_pixels: the most that a picture may have.
        names: whether a picture may lie there under its name alone, without the folders of its path.

    Raises:
        UserError: pictures are missing; it names the first of them and their number.
    """
    found = {path: find_picture(base, path, folders, names) for images in splits.values() for path in images}
    missing = [path for path, file in found.items() if file is None]
    if missing:
        where = ", ".join(folder or "." for folder in folders)
        raise UserError(
            f"{base / missing[0]}: no such image in {where} of {base}"
            f" ({len(missing):,} of {len(found):,} are missing)"
        )

    return {split: partial(_records, images, found, max_pixels) for split, images in splits.items()}


def _records(
    images: dict[str, list[str]],
    found: Mapping[str, Path | None],
    max_pixels: int,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Record]:
    for path, captions in islice(images.items(), start, stop):
        yield {"name": path, "captions": captions, "image": _picture(found[path] or Path(path), max_pixels)}


def find_picture(base: Path, path: str, folders: Sequence[str], names: bool = False) -> Path | None:
    """The file of a picture in the first folder that has it; UserError where the path leads out of `base`."""
    # By the letters of the path, which others wrote: a link in the folder may lead anywhere, as people
    # keep pictures on other disks. What it leads to is taken only where it is a picture.
    if os.path.isabs(path) or os.path.normpath(path).split(os.sep)[0] == os.pardir:
        raise UserError(f"{path}: image paths must stay inside {base}")
    name = os.path.basename(path)
    # COCO's releases of 2014 and 2017 have the same pictures; the later names lack the prefix.
    paths = (path, name, re.sub("^COCO_(train|val)2014_", "", name)) if names else (path,)
    wanted = (base / folder / each for folder in folders for each in paths)
    return next((file for file in wanted if os.path.isfile(file)), None)  # Path's fails on long names


def _picture(path: Path, max_pixels: int) -> bytes | np.ndarray:
    """The file's bytes where it is JPEG or PNG, so that nothing is lost; otherwise its pixels."""
    if (size := path.stat().st_size) > BYTES * max_pixels + MARGIN:
        raise UserError(f"{path}: {size:,} bytes, too many for config.data.max_pixels={max_pixels}")
    data = path.read_bytes()
    pixels = read_picture(data, str(path), max_pixels)
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        return data if picture.format in ("JPEG", "PNG") else pixels
