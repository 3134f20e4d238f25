"""A folder of pictures with their captions."""

import csv
import io
import json
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from jax_itm.data.collate import read_picture
from jax_itm.data.readers import Raw, Record, read_json, read_lines, read_text
from jax_itm.types import UserError

Entry = tuple[str, str, str, list[str]]  # where it is written, split, path, captions


def read_folder(source: Path) -> Raw:
    """A directory of pictures and a file of captions, or that file (paths are relative to it).

    Pictures lie where their path in the captions says, in the directory or in its folder `images`.

    Raises:
        UserError: what `read_captions` refuses, or a picture that is missing, unreadable, or outside
            of the directory.
    """
    table, splits = read_captions(source)
    base = table.parent
    return Raw({s: partial(_pictures, base, images) for s, images in splits.items()}, ("image",))


def read_captions(source: Path, ignore: str = "") -> tuple[Path, dict[str, dict[str, list[str]]]]:
    """The file of captions in a directory, or `source` itself, and {split: {path: captions}}.

    The file of captions is Karpathy's JSON (`images`: `filename`, `split`, `sentences`: `raw`, and
    optionally `filepath`; the split "restval" is train), or a CSV with a header, or JSON lines, of
    `path`, `caption` and optionally `split` ("train" where absent), one line a caption. Files whose
    name matches `ignore` are none of captions.

    Raises:
        UserError: no such file or more than one, or a line that is wrong.
    """
    table = source
    if source.is_dir():
        files = (p for p in source.iterdir() if p.suffix in FORMATS)
        tables = sorted(p for p in files if not fnmatch(p.name, ignore))
        if len(tables) != 1:
            names = ", ".join(p.name for p in tables) or "none"
            raise UserError(
                f"{source}: needs one .json, .jsonl or .csv file of captions, found {names};"
                " --source may name the file"
            )
        table = tables[0]
    if table.suffix not in FORMATS:
        raise UserError(f"{table}: captions must be a .json, .jsonl or .csv file")
    splits: dict[str, dict[str, list[str]]] = {}
    places: dict[str, str] = {}
    for where, split, path, captions in FORMATS[table.suffix](table):
        if not split.isidentifier() or split == "all":  # TFDS names files by it
            raise UserError(f"{where}: split {split!r}: must be a word such as train, val or test")
        if not all(isinstance(c, str) and c.strip() for c in captions) or not captions:
            raise UserError(f"{where}: empty caption")
        if places.setdefault(path, split) != split:
            raise UserError(f"{where}: {path} is in the split {places[path]!r} already")
        splits.setdefault(split, {}).setdefault(path, []).extend(c.strip() for c in captions)
    if not splits:
        raise UserError(f"{table}: no captions")
    return table, splits


def _pictures(base: Path, images: dict[str, list[str]]) -> Iterator[Record]:
    for path, captions in images.items():
        yield {"name": path, "captions": captions, "image": _picture(_find(base, path))}


def _find(base: Path, path: str) -> Path:
    # By the letters of the path: a link that the user put into the folder may lead anywhere.
    if os.path.isabs(path) or os.path.normpath(path).split(os.sep)[0] == os.pardir:
        raise UserError(f"{path}: image paths must stay inside {base}")
    wanted = [base / path, base / "images" / path]
    for file in wanted:
        if file.is_file():
            return file
    raise UserError(f"{wanted[0]}: no such image, nor {wanted[1]}")


def _picture(path: Path) -> bytes | np.ndarray:
    """The file's bytes where it is JPEG or PNG, so that nothing is lost; otherwise its pixels."""
    data = path.read_bytes()
    pixels = read_picture(data, str(path))
    with Image.open(io.BytesIO(data)) as picture:
        return data if picture.format in ("JPEG", "PNG") else pixels


def _karpathy(path: Path) -> Iterator[Entry]:
    try:
        images = read_json(path)["images"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not Karpathy's JSON: no list `images`") from error
    for k, image in enumerate(images):
        where = f"{path}: images[{k}]"
        try:
            name = os.path.join(image.get("filepath", ""), image["filename"])
            split = str(image["split"]).replace("restval", "train")
            yield where, split, name, [sentence["raw"] for sentence in image["sentences"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: needs filename, split and sentences[].raw") from error


def _jsonl(path: Path) -> Iterator[Entry]:
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(line)
            entry = str(row.get("split", "train")), str(row["path"]), [row["caption"]]
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON ({error.msg})") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}:{number}: needs the fields path and caption") from error
        yield f"{path}:{number}", *entry


def _csv(path: Path) -> Iterator[Entry]:
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        if not {"path", "caption"} <= set(rows.fieldnames or ()):
            raise UserError(f"{path}:1: needs the columns path and caption, has {rows.fieldnames}")
        for row in rows:
            if not row["path"]:
                raise UserError(f"{path}:{rows.line_num}: empty path")
            split = row.get("split") or "train"
            yield f"{path}:{rows.line_num}", split, row["path"], [row["caption"]]
    except csv.Error as error:
        raise UserError(f"{path}:{rows.reader.line_num}: not CSV ({error})") from error


FORMATS = {".json": _karpathy, ".jsonl": _jsonl, ".csv": _csv}
