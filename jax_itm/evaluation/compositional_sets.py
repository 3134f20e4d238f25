"""The files of SugarCrepe, Winoground and ARO: pictures, and texts of which some are wrong.

    SugarCrepe   add_att.json .. swap_obj.json: {"0": {"filename", "caption", "negative_caption"}, ..}, and
                 COCO's val2017
    Winoground   examples.jsonl: {"image_0", "image_1", "caption_0", "caption_1", "collapsed_tag", ..} a line
    ARO          visual_genome_relation.json, visual_genome_attribution.json: [{"image_path", "bbox_x",
                 "bbox_y", "bbox_w", "bbox_h", "true_caption", "false_caption", ..}, ..]

Pictures are in the directory or in its folder images or val2017, or linked there. ARO's two sets of word
order are no files: its code shuffles words at random when it runs.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_itm.data.images import read_picture
from jax_itm.data.sources.folder import find_picture, refuse_missing
from jax_itm.data.sources.raw import caption, image_name, parse_json, read_json, read_lines
from jax_itm.errors import UserError

FOLDERS = ("", "images", "val2017")
WINOGROUND = "examples.jsonl"
ARO = {"visual_genome_relation": "relation_name", "visual_genome_attribution": "attributes"}

Row = Mapping[str, Any]  # an entry of a JSON file, not yet checked


class Picture(NamedTuple):
    """A picture, or the part of it x0 y0 x1 y1 in pixels that a text is about."""

    path: Path
    box: tuple[int, int, int, int] | None = None

    def pixels(self, max_pixels: int) -> np.ndarray:
        """uint8 (h, v, 3); UserError if it cannot be read, or nothing is in the box."""
        pixels = read_picture(self.path, max_pixels=max_pixels)
        if self.box is None:
            return pixels
        x0, y0, x1, y1 = self.box
        part = pixels[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        if not part.size:
            raise UserError(f"{self.path}: the box {self.box} is empty or outside")
        return part


class Item(NamedTuple):
    """Pictures with texts: of one picture, the right text first; of several, text j belongs to picture j.

    Attributes:
        pictures: one, or as many as texts.
        texts: at least two.
        label: what the item is about, such as a relation; "" if its set has none.
    """

    pictures: tuple[Picture, ...]
    texts: tuple[str, ...]
    label: str


def read_sets(folder: Path) -> dict[str, list[Item]]:
    """The items of each set in a directory, by name.

    Raises:
        UserError: there is no set, an entry is wrong, or pictures are missing.
    """
    sets: dict[str, list[Item]] = {}
    for file in sorted((*folder.glob("*.json"), *folder.glob(WINOGROUND))):
        if file.name == WINOGROUND:
            sets["winoground"] = _read(file, _numbered(file, read_lines(file)), _winoground)
        elif file.stem in ARO:
            rows = read_json(file)
            sets[file.stem] = _read(file, list(enumerate(rows)) if isinstance(rows, list) else [], _aro)
        else:
            rows = read_json(file)
            sets[file.stem] = _read(file, list(rows.items()) if isinstance(rows, dict) else [], _sugarcrepe)
    if not sets:
        raise UserError(f"{folder}: no .json file of SugarCrepe or ARO, nor Winoground's {WINOGROUND}")
    _check_pictures(folder, sets)
    return sets


def _read(file: Path, rows: list[tuple[Any, Any]], item_of: Callable[[Path, Row, str], Item]) -> list[Item]:
    """The items of a file's rows; UserError names a row that is wrong."""
    if not rows:
        raise UserError(f"{file}: not a set of SugarCrepe, Winoground or ARO: no entries")
    items = []
    for key, row in rows:
        where = f"{file}: {key}"
        try:
            items.append(item_of(file, row, where))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{where}: not an entry of SugarCrepe, Winoground or ARO ({error!r})") from error
    return items


def _numbered(file: Path, lines: list[str]) -> list[tuple[str, Row]]:
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append((f"line {number}", parse_json(line)))
        except json.JSONDecodeError as error:
            raise UserError(f"{file}:{number}: not JSON ({error.msg})") from error
        except ValueError as error:
            raise UserError(f"{file}:{number}: {error}") from error
    return rows


def _sugarcrepe(file: Path, row: Row, where: str) -> Item:
    picture = _find(file.parent, row["filename"], where)
    texts = (caption(row["caption"], where), caption(row["negative_caption"], where))
    return Item((picture,), texts, "")


def _winoground(file: Path, row: Row, where: str) -> Item:
    names = (image_name(row[f"image_{k}"], where) for k in range(2))
    pictures = tuple(_find(file.parent, n if Path(n).suffix else f"{n}.png", where) for n in names)
    texts = tuple(caption(row[f"caption_{k}"], where) for k in range(2))
    return Item(pictures, texts, str(row.get("collapsed_tag", "")))


def _aro(file: Path, row: Row, where: str) -> Item:
    picture = _find(file.parent, row["image_path"], where)
    x, y, width, height = (int(row[f"bbox_{side}"]) for side in "xywh")
    texts = (caption(row["true_caption"], where), caption(row["false_caption"], where))
    label = row[ARO[file.stem]]
    name = label if isinstance(label, str) else "_".join(label)
    return Item((picture._replace(box=(x, y, x + width, y + height)),), texts, name)


def _find(base: Path, name: Any, where: str) -> Picture:
    """A picture by its name; one that is missing is reported with all others, by `_check_pictures`."""
    path = image_name(name, where)
    return Picture(find_picture(base, path, FOLDERS) or base / path)


def _check_pictures(base: Path, sets: Mapping[str, list[Item]]) -> None:
    paths = {picture.path for items in sets.values() for item in items for picture in item.pictures}
    missing = sorted(str(path.relative_to(base)) for path in paths if not path.is_file())
    if missing:
        refuse_missing(missing, len(paths), base, FOLDERS, "; a link to their folder is enough")
