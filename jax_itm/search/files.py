"""The files of an index's sources: pictures in a folder, and captions."""

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jax_itm.data.image_transforms import ImageTransform, transform_image
from jax_itm.data.images import IMAGE_SUFFIXES, picture_files, read_picture
from jax_itm.data.sources.captions import read_captions
from jax_itm.data.sources.raw import caption, read_lines
from jax_itm.errors import UserError
from jax_itm.search.store import Picture, Stamp

THUMBNAIL = 320  # pixels of the longer edge
QUALITY = 85


class ReadFile(NamedTuple):
    """A file of the folder that was read, or not.

    Attributes:
        name: its path below the folder.
        stamp: of the file.
        picture: what the index keeps of it; none where it cannot be read.
        pixels: uint8 (h, v, 3), brought to the size that the run takes.
        reason: why it cannot be read.
    """

    name: str
    stamp: Stamp
    picture: Picture | None = None
    pixels: np.ndarray | None = None
    reason: str = ""


def scan(folder: Path) -> dict[str, Stamp]:
    """The stamps of a folder's pictures by their paths below it.

    Raises:
        UserError: it is no folder, or there are no pictures.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder}: not a directory of pictures")
    stamps = {}
    for file in picture_files(folder):
        status = file.stat()
        stamp = Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        stamps[file.relative_to(folder).as_posix()] = stamp
    if not stamps:
        raise UserError(f"--images {folder}: no pictures there ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return stamps


def read_file(folder: Path, name: str, stamp: Stamp, transform: ImageTransform) -> ReadFile:
    """Reads a picture, makes its thumbnail, and brings it to the size that the run takes."""
    try:
        os.fsencode(name).decode()
    except UnicodeDecodeError:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        return ReadFile(shown, stamp, reason=f"{folder / shown}: the name is not UTF-8")
    try:
        pixels = read_picture(folder / name, max_pixels=transform.max_pixels)
        small = transform_image(pixels, transform)
    except UserError as error:
        return ReadFile(name, stamp, reason=str(error))
    height, width = pixels.shape[:2]
    picture = Picture(name, stamp, width, height, digest_of(folder / name), thumbnail(pixels))
    return ReadFile(name, stamp, picture, small)


def digest_of(file: Path) -> bytes:
    """A digest of a file's contents; empty where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return b""


def thumbnail(pixels: np.ndarray) -> bytes:
    """A picture, uint8 (h, v, 3), as a small JPEG."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def read_texts(file: Path) -> list[str]:
    """The captions of a file, each once: a .txt with one a line, or what `read_captions` takes.

    Raises:
        UserError: the file cannot be read, or a line is wrong.
    """
    if file.suffix == ".txt":
        texts = [caption(line, f"{file}:{k}") for k, line in enumerate(read_lines(file), start=1)]
        if not texts:
            raise UserError(f"{file}: no captions")
        return list(dict.fromkeys(texts))
    splits = read_captions(file).splits.values()
    return list(dict.fromkeys(text for images in splits for own in images.values() for text in own))
