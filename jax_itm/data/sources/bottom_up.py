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
from jax_itm.data.sources.precomp import to_float16
from jax_itm.data.sources.raw import Raw, Record
from jax_itm.errors import UserError

LAYOUTS = {  # the fields of a line, by their number
    6: ("img_id", "img_w", "img_h", "num_boxes", "boxes", "features"),
    10: ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes",
         "boxes", "features"),
}  # fmt: skip
REQUIRED = frozenset(LAYOUTS[6])
MAX_LINE = 2**26  # bytes: 60 times what 100 regions of 2,048 features need
SLACK = 1.0  # pixels by which a box may exceed its picture: detectors count the last pixel differently


class Line(NamedTuple):
    """A line of a .tsv file, and the fields that it has."""

    file: Path
    number: int
    offset: int
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


def read_bottom_up(source: Path) -> Raw:
    """A directory of .tsv files with a file of captions (see `read_captions`), or that file.

    A line is an image. Its fields are those of bottom-up attention: image_id, image_w, image_h, num_boxes,
    boxes, features; or LXMERT's ten: img_id, img_h, img_w, objects_id, objects_conf, attrs_id, attrs_conf,
    num_boxes, boxes, features. Their number tells which, unless the first line names them. Boxes are float32
    x1 y1 x2 y2 in pixels, features are float32 (num_boxes, f), both in base64. Objects and attributes are
    ignored.

    Captions name pictures. A picture has the features of the line with its name (without folder and suffix),
    or with the number at the end of its name: COCO_val2014_000000391895.jpg those of 391895, which is
    Karpathy's cocoid. The first of several lines of an image counts. Lines without captions are not used.

    Raises:
        UserError: there are no .tsv files or no captions, a picture has no features, or a line is wrong.
    """
    table, splits = read_captions(source)
    base = table.parent
    files = sorted(file for file in base.glob("*.tsv") if file.is_file())
    if not files:
        raise UserError(f"{base}: no .tsv file of features")
    index: dict[str, Line] = {}
    for file in files:
        _add_to_index(file, index)
    images = [image for captions in splits.values() for image in captions]
    candidates = {image: index.get(Path(image).stem) or index.get(_number(image)) for image in images}
    lines = {image: line for image, line in candidates.items() if line}
    missing = [image for image in images if image not in lines]
    if missing:
        raise UserError(
            f"{base}: no features of {missing[0]} in {', '.join(file.name for file in files)}"
            f" ({len(missing):,} of {len(images):,} images have none)"
        )
    region_dim = _read_line(lines[images[0]])["regions"].shape[1]
    reads = {split: partial(_records, captions, lines, region_dim) for split, captions in splits.items()}
    return Raw(reads, ("regions", "boxes"), region_dim, by_image(splits))


def _number(image: str) -> str:
    """The number at the end of a picture's name, without leading zeros; the name where it ends in none."""
    match = re.search("(?:^|_)([0-9]+)$", Path(image).stem)
    return (match[1].lstrip("0") or "0") if match else image


def _add_to_index(file: Path, index: dict[str, Line]) -> None:
    """Adds the line of each image of a file, by its name and by its number."""
    fields = ()
    offset = 0
    with file.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE), b""), start=1):
            if len(line) == MAX_LINE:
                raise UserError(f"{file}:{number}: a line of {MAX_LINE:,} bytes or more")
            cells = line.rstrip(b"\r\n").split(b"\t")
            if number == 1 and b"features" in cells:
                fields = tuple(cell.decode(errors="replace").replace("image_", "img_") for cell in cells)
                if not set(fields) >= REQUIRED:
                    raise UserError(f"{file}:1: needs the fields {', '.join(LAYOUTS[6])}")
            else:
                fields = fields or LAYOUTS.get(len(cells), ())
                if len(cells) != len(fields) or not fields:
                    wanted = len(fields) or "6 or 10"
                    raise UserError(f"{file}:{number}: {len(cells)} fields, must be {wanted}")
                name = cells[fields.index("img_id")].decode(errors="replace")
                for key in (name, _number(name)):
                    index.setdefault(key, Line(file, number, offset, fields))
            offset += len(line)


def _records(
    images: dict[str, list[str]],
    lines: dict[str, Line],
    region_dim: int,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Record]:
    for image, captions in islice(images.items(), start, stop):
        record = _read_line(lines[image])
        size = record["regions"].shape[1]
        if size != region_dim:
            raise UserError(f"{lines[image]}: features of size {size}, the first image's {region_dim}")
        yield {"name": image, "captions": captions, **record}


def _read_line(line: Line) -> Record:
    """A line's regions float16 (r, f) and boxes float32 (r, 4) in units of the image."""
    with line.file.open("rb") as file:
        file.seek(line.offset)
        values = file.readline().rstrip(b"\r\n").split(b"\t")
    cells = dict(zip(line.fields, values, strict=True))
    count = _count(cells, "num_boxes", line)
    width = _count(cells, "img_w", line)
    height = _count(cells, "img_h", line)
    boxes = _floats(cells, "boxes", count, line)
    if boxes.shape[1] != 4:
        raise UserError(f"{line}: boxes has {boxes.size} numbers, num_boxes {count} needs {4 * count}")
    extent = np.array([width, height, width, height], np.float32)
    inside = (boxes >= -SLACK) & (boxes <= extent + SLACK)  # False for NaN, too
    for row in np.flatnonzero(~np.all(inside, axis=1) | np.any(boxes[:, :2] > boxes[:, 2:], axis=1)):
        raise UserError(f"{line}: boxes: row {row} is not x1 y1 x2 y2 within {width} x {height} pixels")
    regions = to_float16(_floats(cells, "features", count, line), str(line))
    return {"regions": regions, "boxes": np.clip(boxes / extent, 0, 1)}


def _count(cells: dict[str, bytes], name: str, line: Line) -> int:
    cell = cells[name]
    if not re.fullmatch(rb"0*[1-9][0-9]{0,6}", cell):
        text = cell[:20].decode(errors="replace")
        raise UserError(f"{line}: {name} is {text!r}, must be 1 or more, of at most 7 digits")
    return int(cell)


def _floats(cells: dict[str, bytes], name: str, count: int, line: Line) -> np.ndarray:
    """A field of float32 (count, n)."""
    try:
        values = np.frombuffer(base64.b64decode(cells[name], validate=True), np.float32)
        if not values.size:
            raise ValueError("empty")
        return values.reshape(count, -1)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{line}: {name} is not base64 of {count} rows of float32 ({error})") from error
