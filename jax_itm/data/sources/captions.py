"""Files of captions: Karpathy's JSON, CSV with a header, JSON lines."""

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from jax_itm.data.sources.raw import caption, image_name, parse_json, read_json, read_lines, read_text
from jax_itm.errors import UserError

Entry = tuple[str, str, str, list[str]]  # position in the file, split, path, captions
Splits = dict[str, dict[str, list[str]]]  # {split: {path: captions}}
SPLIT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def read_captions(source: Path, ignore: str = "") -> tuple[Path, Splits]:
    """The captions of a data set.

    A file of captions is Karpathy's JSON (`images`: `filename`, `split`, `sentences`: `raw`, and optionally
    `filepath`; the split "restval" becomes "train"); or a CSV with a header, or JSON lines, with `path`,
    `caption` and optionally `split` ("train" where it is absent), one caption a line.

    Args:
        source: the file of captions, or the directory in which it is.
        ignore: a pattern of file names that do not hold captions.

    Returns:
        The file of captions, and {split: {path: captions}}.

    Raises:
        UserError: there is no such file or more than one, or a line is wrong.
    """
    table = source
    if source.is_dir():
        files = (path for path in source.iterdir() if path.suffix in FORMATS)
        tables = sorted(path for path in files if not fnmatch(path.name, ignore))
        if len(tables) != 1:
            names = ", ".join(path.name for path in tables) or "none"
            raise UserError(
                f"{source}: needs one .json, .jsonl or .csv file of captions, found {names};"
                " --source may name the file"
            )
        table = tables[0]
    if table.suffix not in FORMATS:
        raise UserError(f"{table}: captions must be a .json, .jsonl or .csv file")
    return table, collect(table, FORMATS[table.suffix](table))


def collect(table: Path, entries: Iterable[Entry]) -> Splits:
    """The entries of a file of captions by split and path; UserError names a line that is wrong."""
    splits: Splits = {}
    split_of: dict[str, str] = {}
    for where, split, path, captions in entries:
        if not SPLIT_NAME.fullmatch(split) or split == "all":  # part of TFDS's file names
            raise UserError(f"{where}: split {split!r}: must be a word such as train, val or test")
        if not captions:
            raise UserError(f"{where}: empty caption")
        image_name(path, where)
        if split_of.setdefault(path, split) != split:
            raise UserError(f"{where}: {path} is in the split {split_of[path]!r} already")
        splits.setdefault(split, {}).setdefault(path, []).extend(caption(c, where) for c in captions)
    if not splits:
        raise UserError(f"{table}: no captions")
    return splits


def by_image(splits: Splits) -> dict[str, list[list[str]]]:
    """The captions of each split's images, for `Raw`."""
    return {split: list(images.values()) for split, images in splits.items()}


def karpathy(path: Path) -> Iterator[Entry]:
    """The images of Karpathy's JSON (https://cs.stanford.edu/people/karpathy/deepimagesent)."""
    table = read_json(path)
    images = table.get("images") if isinstance(table, dict) else None
    if not isinstance(images, list):
        raise UserError(f"{path}: not Karpathy's JSON: no list `images`")
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
            row = parse_json(line)
            entry = str(row.get("split", "train")), row["path"], [row["caption"]]
        except ValueError as error:
            raise UserError(f"{path}:{number}: not JSON ({error})") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}:{number}: needs the fields path and caption") from error
        yield f"{path}:{number}", *entry


def _csv(path: Path) -> Iterator[Entry]:
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        if not {"path", "caption"} <= set(rows.fieldnames or ()):
            raise UserError(f"{path}:1: needs the columns path and caption, has {rows.fieldnames}")
        for row in rows:
            split = row.get("split") or "train"
            yield f"{path}:{rows.line_num}", split, row["path"], [row["caption"] or ""]
    except csv.Error as error:
        raise UserError(f"{path}:{rows.reader.line_num}: not CSV ({error})") from error


FORMATS = {".json": karpathy, ".jsonl": _jsonl, ".csv": _csv}
