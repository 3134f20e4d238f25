"""Region features that were computed beforehand: SCAN's layout of .npy files."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from jax_itm.data.sources.raw import Raw, Read, Record, caption, image_name, read_lines
from jax_itm.errors import UserError

REPEATS = 5  # VSE++ wrote the images of dev and test once for each of their five captions


def read_precomp(source: Path) -> Raw:
    """{split}_ims.npy (n, r, f), {split}_caps.txt, optional {split}_ids.txt and boxes.npy (r, 4).

    Each image has as many captions as there are caption lines an image. Where there are as many
    rows as captions, and they come in fives of equal rows, five rows are one image.

    Raises:
        UserError: a file is missing, or its contents do not fit; checked before reading all.
    """
    found = [s for s in ("train", "dev", "val", "test") if (source / f"{s}_ims.npy").exists()]
    if not found:
        raise UserError(f"{source}: none of train_ims.npy, dev_ims.npy, val_ims.npy, test_ims.npy")
    beside = source / "boxes.npy"
    boxes = as_boxes(read_array(beside), str(beside)) if beside.exists() else None
    splits, texts, shapes = {}, {}, {}
    for split in found:
        path = source / f"{split}_ims.npy"
        images = read_array(path)
        if images.ndim != 3 or 0 in images.shape[1:]:
            raise UserError(f"{path}: shape {images.shape}, must be (images, regions, features)")
        shapes[split] = images.shape[1:]
        if shapes[split][1] != shapes[found[0]][1]:
            raise UserError(
                f"{path}: features of size {images.shape[2]}, but {found[0]}_ims.npy has"
                f" {shapes[found[0]][1]}"
            )
        if boxes is not None and len(boxes) != images.shape[1]:
            raise UserError(
                f"{beside}: {len(boxes)} boxes, but {path.name} has {images.shape[1]} regions an image"
            )
        splits[split], texts[split] = _precomp_split(source, split, images, boxes)
    holds = ("regions",) if boxes is None else ("regions", "boxes")
    return Raw(splits, holds, shapes[found[0]][1], texts)


def read_array(path: Path) -> np.ndarray:
    """A .npy file of floating numbers, mapped; never a pickle. UserError where it is none."""
    try:
        with np.errstate(over="ignore"):  # of absurd shapes, which do not fit the file
            array = np.lib.format.open_memmap(path, mode="r")  # refuses objects, which would be a pickle
    except Exception as error:  # what a header says is parsed as Python, which fails in every kind
        raise UserError(f"{path}: not a readable .npy array ({error})") from error
    if array.dtype.kind != "f":
        raise UserError(f"{path}: dtype {array.dtype}, must be floating")
    return array


def as_boxes(found: np.ndarray, where: str) -> np.ndarray:
    """Boxes as float32 (r, 4); UserError where they are none."""
    boxes = np.asarray(found)
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


def half(regions: np.ndarray, where: str) -> np.ndarray:
    """Regions (r, f) of any precision as float16, a copy; UserError where one is not finite in it."""
    with np.errstate(over="ignore"):  # what float16 cannot hold is refused just below
        regions = regions.astype(np.float16)
    if not np.isfinite(regions).all():
        raise UserError(f"{where}: a region is not finite in float16")
    return regions


def _precomp_split(
    source: Path, split: str, images: np.ndarray, boxes: np.ndarray | None
) -> tuple[Read, list[list[str]]]:
    path = source / f"{split}_ims.npy"
    file = source / f"{split}_caps.txt"
    captions = [caption(line, f"{file}:{k}") for k, line in enumerate(read_lines(file), start=1)]
    rows = range(len(images))
    if len(images) == len(captions) and _repeated(images, path):
        rows = rows[::REPEATS]
    if not captions or not rows or len(captions) % len(rows):
        raise UserError(
            f"{path}: {len(images)} rows do not match the {len(captions)} captions of"
            f" {split}_caps.txt: captions an image must be a whole number"
        )
    each = len(captions) // len(rows)
    names = [f"{split}/{row // rows.step}" for row in rows]
    ids = source / f"{split}_ids.txt"
    if ids.exists():
        names = [image_name(line, f"{ids}:{k}") for k, line in enumerate(read_lines(ids), start=1)]
        if len(names) == len(images):
            names = names[:: rows.step]
        if len(names) != len(rows):
            raise UserError(f"{ids}: {len(names)} lines, but {path.name} has {len(rows)} images")

    texts = [captions[i * each : (i + 1) * each] for i in range(len(rows))]

    return partial(_records, path, names, texts, rows.step, boxes), texts


def _records(
    path: Path,
    names: Sequence[str],
    texts: Sequence[list[str]],
    step: int,
    boxes: np.ndarray | None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Record]:
    images = read_array(path)
    for i in range(len(texts))[start:stop]:
        regions = half(images[i * step], f"{path}: row {i * step}")
        record = {"name": names[i], "regions": regions, "captions": texts[i]}
        yield record if boxes is None else record | {"boxes": boxes}


def _repeated(images: np.ndarray, path: Path) -> bool:
    """Whether rows come in fives of equal ones; the first five tell, the others must agree."""
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
