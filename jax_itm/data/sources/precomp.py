"""Region features that were extracted beforehand: SCAN's layout of .npy files."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_itm.data.sources.raw import Raw, Record, caption, image_name, read_lines
from jax_itm.errors import UserError

SPLITS = ("train", "dev", "val", "test", "testall")  # COCO's testall: 5,000 images, test its first 1,000
FILES = r"(.+)_(ims\.npy|caps\.txt|ids\.txt)"  # of one split
REPEATS = 5  # VSE++ wrote the images of dev and test five times, once for each caption


class _Split(NamedTuple):
    """The images of one split, whose `read` is a reader for `Raw`."""

    path: Path
    names: list[str]
    captions: list[list[str]]
    rows_per_image: int
    boxes: np.ndarray | None

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        images = read_array(self.path)
        for i in range(len(self.captions))[start:stop]:
            row = i * self.rows_per_image
            regions = to_float16(images[row], f"{self.path}: row {row}")
            record = {"name": self.names[i], "regions": regions, "captions": self.captions[i]}
            yield record if self.boxes is None else record | {"boxes": self.boxes}


def read_precomp(source: Path) -> Raw:
    """{split}_ims.npy (n, r, f), {split}_caps.txt, optionally {split}_ids.txt and boxes.npy (r, 4).

    The splits are `SPLITS`; files of others are named in the notes.
    All images of a split have the same number of captions. Where there are as many rows as captions, and the
    rows come in fives of equal ones, five rows are one image.

    Raises:
        UserError: a file is missing, or the files do not match; checked before all of them is read.
    """
    present = [split for split in SPLITS if (source / f"{split}_ims.npy").exists()]
    if not present:
        raise UserError(f"{source}: none of {', '.join(f'{split}_ims.npy' for split in SPLITS)}")
    boxes_file = source / "boxes.npy"
    boxes = as_boxes(read_array(boxes_file), str(boxes_file)) if boxes_file.exists() else None
    region_dim = None
    splits = {}
    for split in present:
        path = source / f"{split}_ims.npy"
        images = read_array(path)
        if images.ndim != 3 or 0 in images.shape[1:]:
            raise UserError(f"{path}: shape {images.shape}, must be (images, regions, features)")
        region_dim = region_dim or images.shape[2]
        if images.shape[2] != region_dim:
            raise UserError(
                f"{path}: features of size {images.shape[2]}, but {present[0]}_ims.npy has {region_dim}"
            )
        if boxes is not None and len(boxes) != images.shape[1]:
            raise UserError(
                f"{boxes_file}: {len(boxes)} boxes, but {path.name} has {images.shape[1]} regions an image"
            )
        splits[split] = _read_split(source, split, images, boxes)
    features = ("regions",) if boxes is None else ("regions", "boxes")
    captions = {name: split.captions for name, split in splits.items()}
    candidates = [
        source / f"{split}_{end}" for split in present for end in ("ims.npy", "caps.txt", "ids.txt")
    ]
    files = tuple(file for file in (*candidates, boxes_file) if file.exists())
    notes = tuple(_not_taken(source, present))
    reads = {name: split.read for name, split in splits.items()}
    return Raw(reads, features, region_dim, captions, notes=notes, files=files)


def _not_taken(source: Path, present: Sequence[str]) -> Iterator[str]:
    """A line for each file that looks like one of a split, but belongs to none that is read."""
    for file in sorted(source.iterdir()):
        match = re.fullmatch(FILES, file.name)
        if match and match[1] not in present:
            known = match[1] in SPLITS
            reason = f"no {match[1]}_ims.npy" if known else f"the splits are {', '.join(SPLITS)}"
            yield f"{file.name}: not taken, {reason}"


def read_array(path: Path) -> np.ndarray:
    """A .npy file of floating-point numbers, memory-mapped; never a pickle. UserError where it is none."""
    try:
        with np.errstate(over="ignore"):  # absurd shapes overflow; they do not match the file
            array = np.lib.format.open_memmap(path, mode="r")  # refuses arrays of objects: they are pickles
    except Exception as error:  # numpy parses the header as Python, which raises exceptions of every kind
        raise UserError(f"{path}: not a readable .npy array ({error})") from error
    if array.dtype.kind != "f":
        raise UserError(f"{path}: dtype {array.dtype}, must be floating")
    return array


def as_boxes(array: np.ndarray, where: str) -> np.ndarray:
    """Boxes as float32 (r, 4); UserError where the array does not hold boxes."""
    boxes = np.asarray(array)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "fiu":
        raise UserError(f"{where}: {boxes.dtype} of shape {boxes.shape}, must be floating (regions, 4)")
    boxes = boxes.astype(np.float32)
    check_boxes(boxes, where)
    return boxes


def check_boxes(boxes: np.ndarray, where: str) -> None:
    """UserError names the first of boxes (r, 4) that is not x1 y1 x2 y2, 0 to 1, in that order."""
    inside = np.all((boxes >= 0) & (boxes <= 1), axis=1)  # False for NaN, too
    for row in np.flatnonzero(~inside | np.any(boxes[:, :2] > boxes[:, 2:], axis=1)):
        raise UserError(f"{where}: row {row} is not x1 y1 x2 y2 in units of the image, 0 to 1")


def to_float16(regions: np.ndarray, where: str) -> np.ndarray:
    """A copy of regions (r, f) in float16; UserError where a value is not finite in it."""
    with np.errstate(over="ignore"):  # values that float16 cannot hold are refused just below
        regions = regions.astype(np.float16)
    if not np.isfinite(regions).all():
        raise UserError(f"{where}: a region is not finite in float16")
    return regions


def _read_split(source: Path, split: str, images: np.ndarray, boxes: np.ndarray | None) -> _Split:
    path = source / f"{split}_ims.npy"
    file = source / f"{split}_caps.txt"
    captions = [caption(line, f"{file}:{k}") for k, line in enumerate(read_lines(file), start=1)]
    rows_per_image = REPEATS if len(images) == len(captions) and _is_repeated(images, path) else 1
    count = len(images) // rows_per_image
    if not captions or not count or len(captions) % count:
        raise UserError(
            f"{path}: {len(images)} rows do not match the {len(captions)} captions of"
            f" {split}_caps.txt: captions an image must be a whole number"
        )
    names = [f"{split}/{i}" for i in range(count)]
    ids = source / f"{split}_ids.txt"
    if ids.exists():
        names = [image_name(line, f"{ids}:{k}") for k, line in enumerate(read_lines(ids), start=1)]
        if len(names) == len(images):
            names = names[::rows_per_image]
        if len(names) != count:
            raise UserError(f"{ids}: {len(names)} lines, but {path.name} has {count} images")
    each = len(captions) // count
    by_image = [captions[i * each : (i + 1) * each] for i in range(count)]
    return _Split(path, names, by_image, rows_per_image, boxes)


def _is_repeated(images: np.ndarray, path: Path) -> bool:
    """Whether rows come in fives of equal ones: the first five decide, and the others must agree."""
    for start in range(0, len(images), REPEATS):
        rows = images[start : start + REPEATS]
        equal = len(rows) == REPEATS and bool(np.all(rows == rows[:1]))
        if not equal and start == 0:
            return False
        if not equal:
            raise UserError(
                f"{path}: the first five rows are one image's, but not rows {start} to"
                f" {start + REPEATS - 1}: images must be repeated five times throughout, or nowhere"
            )
    return len(images) > 0
