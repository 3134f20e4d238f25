"""Region features as bottom-up attention (Anderson et al., 2018) and LXMERT write them: .tsv in base64."""

import base64
import binascii
import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_itm.data.sources.captions import by_image, read_captions
from jax_itm.data.sources.precomp import half
from jax_itm.data.sources.raw import Raw, Record
from jax_itm.errors import UserError

LAYOUTS = {  # the fields of a line, by their number
    6: ("img_id", "img_w", "img_h", "num_boxes", "boxes", "features"),
    10: ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes",
         "boxes", "features"),
}  # fmt: skip
NEEDED = frozenset(LAYOUTS[6])
LONGEST = 2**26  # bytes of a line: 60 times those of 100 regions of 2,048
SLACK = 1.0  # pixels that a box may lie beyond its picture: detectors count their last one differently


class Place(NamedTuple):
    """A line of a .tsv file."""

    file: Path
    line: int
    offset: int
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def read_bottom_up(source: Path) -> Raw:
    """A directory of .tsv files with a file of captions (see `read_captions`), or that file.

    A line is an image: image_id, image_w, image_h, num_boxes, boxes, features of bottom-up attention, or
    LXMERT's ten, img_id, img_h, img_w, objects_id, objects_conf, attrs_id, attrs_conf, num_boxes, boxes,
    features, told apart by their number; or as a first line names them. Boxes are float32 x1 y1 x2 y2 in
    pixels, features float32 (num_boxes, f), both in base64. Objects and attributes stay unread.

    Captions name pictures. One has the features of the line with its name (without folder and suffix),
    or with the number that its name ends in: COCO_val2014_000000391895.jpg those of 391895, Karpathy's
    cocoid. Of two lines of an image the first counts. Lines without captions are not used.

    Raises:
        UserError: no .tsv or no captions, a picture without features, or a line that is wrong.
    """
    table, splits = read_captions(source)
    base = table.parent
    files = sorted(file for file in base.glob("*.tsv") if file.is_file())
    if not files:
        raise UserError(f"{base}: no .tsv file of features")
    known: dict[str, Place] = {}
    for file in files:
        _index(file, known)
    images = [image for of in splits.values() for image in of]
    places = ((image, known.get(Path(image).stem) or known.get(_number(image))) for image in images)
    found = {image: place for image, place in places if place}
    missing = [image for image in images if image not in found]
    if missing:
        raise UserError(
            f"{base}: no features of {missing[0]} in {', '.join(file.name for file in files)}"
            f" ({len(missing):,} of {len(images):,} images have none)"
        )
    dim = _record(found[images[0]])["regions"].shape[1]
    reads = {split: partial(_records, of, found, dim) for split, of in splits.items()}
    return Raw(reads, ("regions", "boxes"), dim, by_image(splits))


def _number(image: str) -> str:
    """The number that a picture's name ends in, without leading zeros; its name where there is none."""
    number = re.search("(?:^|_)([0-9]+)$", Path(image).stem)
    return (number[1].lstrip("0") or "0") if number else image


def _index(file: Path, known: dict[str, Place]) -> None:
    """Adds where each image of a file is, by its name and its number."""
    fields, offset = (), 0
    with file.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(LONGEST), b""), start=1):
            if len(line) == LONGEST:
                raise UserError(f"{file}:{number}: a line of {LONGEST:,} bytes or more")
            cells = line.rstrip(b"\r\n").split(b"\t")
            if number == 1 and b"features" in cells:
                fields = tuple(cell.decode(errors="replace").replace("image_", "img_") for cell in cells)
                if not set(fields) >= NEEDED:
                    raise UserError(f"{file}:1: needs the fields {', '.join(LAYOUTS[6])}")
            else:
                fields = fields or LAYOUTS.get(len(cells), ())
                if len(cells) != len(fields) or not fields:
                    wanted = len(fields) or "6 or 10"
                    raise UserError(f"{file}:{number}: {len(cells)} fields, must be {wanted}")
                name = cells[fields.index("img_id")].decode(errors="replace")
                for key in (name, _number(name)):
                    known.setdefault(key, Place(file, number, offset, fields))
            offset += len(line)


def _records(
    images: dict[str, list[str]], found: dict[str, Place], dim: int, start: int = 0, stop: int | None = None
) -> Iterator[Record]:
    for image, captions in islice(images.items(), start, stop):
        record = _record(found[image])
        if record["regions"].shape[1] != dim:
            size = record["regions"].shape[1]
            raise UserError(f"{found[image]}: features of size {size}, the first image's {dim}")
        yield {"name": image, "captions": captions, **record}


def _record(place: Place) -> Record:
    """A line's regions float16 (r, f) and boxes float32 (r, 4) in units of the image."""
    with place.file.open("rb") as file:
        file.seek(place.offset)
        cells = dict(zip(place.fields, file.readline().rstrip(b"\r\n").split(b"\t"), strict=True))
    count, wide, high = (_count(cells[name], name, place) for name in ("num_boxes", "img_w", "img_h"))
    boxes = _floats(cells["boxes"], "boxes", count, place)
    if boxes.shape[1] != 4:
        raise UserError(f"{place}: boxes has {boxes.size} numbers, num_boxes {count} needs {4 * count}")
    extent = np.array([wide, high, wide, high], np.float32)
    inside = (boxes >= -SLACK) & (boxes <= extent + SLACK)  # False for NaN, too
    for row in np.flatnonzero(~np.all(inside, axis=1) | np.any(boxes[:, :2] > boxes[:, 2:], axis=1)):
        raise UserError(f"{place}: boxes: row {row} is not x1 y1 x2 y2 within {wide} x {high} pixels")
    regions = half(_floats(cells["features"], "features", count, place), str(place))
    return {"regions": regions, "boxes": np.clip(boxes / extent, 0, 1)}


def _count(cell: bytes, name: str, place: Place) -> int:
    if not re.fullmatch(rb"0*[1-9][0-9]{0,6}", cell):
        found = cell[:20].decode(errors="replace")
        raise UserError(f"{place}: {name} is {found!r}, must be 1 or more, of 7 digits at most")
    return int(cell)


def _floats(cell: bytes, name: str, count: int, place: Place) -> np.ndarray:
    """A field of float32 (count, n)."""
    try:
        values = np.frombuffer(base64.b64decode(cell, validate=True), np.float32)
        if not values.size:
            raise ValueError("empty")
        return values.reshape(count, -1)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{place}: {name} is not base64 of {count} rows of float32 ({error})") from error
