"""Region features as bottom-up attention (Anderson et al., 2018) and LXMERT write them: .tsv in base64."""

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_itm.data.sources.captions import by_image, check_distinct, read_captions, sentence_ids
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
BROKEN = "broken lines, of whose images a later one was taken"
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

    Captions name pictures. A picture has the features of the line with its name (without folder and suffix).
    Names that are numbers or COCO's are numbers: COCO_val2014_000000391895.jpg is 391895, Karpathy's cocoid.
    Of several lines of an image the first that is not broken counts, as the published files hold cut lines
    with the complete one later. Lines without captions are not used.

    Raises:
        UserError: there are no .tsv files or no captions, a picture has no features or those of another one,
            or all lines of an image are wrong.
    """
    table, splits, notes = read_captions(source)
    base = table.parent
    files = sorted(file for file in base.glob("*.tsv") if file.is_file())
    if not files:
        raise UserError(f"{base}: no .tsv file of features")
    index: dict[str, list[Line]] = {}
    for file in files:
        _add_to_index(file, index)
    images = [image for captions in splits.values() for image in captions]
    lines = {image: index[key] for image in images if (key := _key(Path(image).stem)) in index}
    missing = [image for image in images if image not in lines]
    if missing:
        raise UserError(
            f"{base}: no features of {missing[0]} in {', '.join(file.name for file in files)}"
            f" ({len(missing):,} of {len(images):,} images have none)"
        )
    check_distinct({image: str(found[0]) for image, found in lines.items()})
    tally: Counter[str] = Counter()
    region_dim = _first_unbroken(lines[images[0]], Counter())[1]["regions"].shape[1]
    reads = {
        split: partial(_records, captions, lines, region_dim, tally) for split, captions in splits.items()
    }
    return Raw(
        reads,
        ("regions", "boxes"),
        region_dim,
        by_image(splits),
        notes=notes,
        tally=tally,
        source_ids=sentence_ids(table, splits),
        files=(table, *files),
    )


def _key(name: str) -> str:
    """What an image is found by: its name, or the number that this is or, in COCO's names, ends with."""
    match = re.fullmatch("(?:COCO_[a-z]+[0-9]{4}_)?([0-9]+)", name)
    return (match[1].lstrip("0") or "0") if match else name


def _add_to_index(file: Path, index: dict[str, list[Line]]) -> None:
    """Adds the lines of each image of a file."""
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
                if not fields:
                    raise UserError(f"{file}:{number}: {len(cells)} fields, must be 6 or 10")
                # A cut line may lack its id: it is nobody's then.
                name = dict(zip(fields, cells, strict=False)).get("img_id", b"").decode(errors="replace")
                index.setdefault(_key(name), []).append(Line(file, number, offset, fields))
            offset += len(line)


def _records(
    images: dict[str, list[str]],
    lines: dict[str, list[Line]],
    region_dim: int,
    tally: Counter[str],
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Record]:
    for image, captions in islice(images.items(), start, stop):
        line, record = _first_unbroken(lines[image], tally)
        size = record["regions"].shape[1]
        if size != region_dim:
            raise UserError(f"{line}: features of size {size}, the first image's {region_dim}")
        yield {"name": image, "captions": captions, **record}


def _first_unbroken(lines: list[Line], tally: Counter[str]) -> tuple[Line, Record]:
    """The first line of an image that can be read, and what it holds; the error of the first if none can."""
    errors = []
    for line in lines:
        try:
            record = _read_line(line)
        except UserError as error:
            errors.append(error)
            continue
        if errors:
            tally[BROKEN] += len(errors)
        return line, record
    raise errors[0]


def _read_line(line: Line) -> Record:
    """A line's regions float16 (r, f) and boxes float32 (r, 4) in units of the image."""
    with line.file.open("rb") as file:
        file.seek(line.offset)
        values = file.readline().rstrip(b"\r\n").split(b"\t")
    if len(values) != len(line.fields):
        raise UserError(f"{line}: {len(values)} fields, must be {len(line.fields)}")
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
