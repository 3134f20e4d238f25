"""Files of captions: Karpathy's JSON, CSV with a header, JSON lines."""

import csv
import difflib
import hashlib
import io
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from jax_itm.data.sources.raw import caption, image_name, parse_json, read_json, read_lines, read_text
from jax_itm.errors import UserError, listed

Entry = tuple[str, str, str, list[str]]  # position in the file, split, path, captions
Splits = dict[str, dict[str, list[str]]]  # {split: {path: captions}}
SPLIT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
COLUMNS = ("path", "caption", "split")  # of CSV and of JSON lines; the last may be absent

VALIDATION_SHARE = 0.1  # of the images of a set that brings no `val`
MIN_SHARED = 20  # images of a set that can spare some


class Captions(NamedTuple):
    """The captions of a data set.

    Attributes:
        table: the file that they are from.
        splits: the captions of each picture by split and path.
        notes: what of the file is not used; a line each.
    """

    table: Path
    splits: Splits
    notes: tuple[str, ...]


def read_captions(source: Path, ignore: str = "") -> Captions:
    """The captions of a data set.

    A file of captions is Karpathy's JSON (`images`: `filename`, `split`, `sentences`: `raw`, and optionally
    `filepath`; the split "restval" becomes "train"); or a CSV with a header, or JSON lines, with `path`,
    `caption` and optionally `split` ("train" where it is absent, empty or null), one caption a line.

    Args:
        source: the file of captions, or the directory in which it is.
        ignore: a pattern of file names that do not hold captions.

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
    unused: set[str] = set()
    splits = collect(table, FORMATS[table.suffix](table, unused))
    return Captions(table, splits, (f"{table.name}: not used: {listed(unused)}",) if unused else ())


def collect(table: Path, entries: Iterable[Entry]) -> Splits:
    """The entries of a file of captions by split and normalised path; UserError names a wrong line."""
    splits: Splits = {}
    split_of: dict[str, str] = {}
    for where, split, name, captions in entries:
        if not SPLIT_NAME.fullmatch(split) or split == "all":  # part of TFDS's file names
            raise UserError(f"{where}: split {split!r}: must be a word such as train, val or test")
        if not captions:
            raise UserError(f"{where}: empty caption")
        path = os.path.normpath(image_name(name, where))  # ./a.png is a.png
        if split_of.setdefault(path, split) != split:
            raise UserError(f"{where}: {path} is in the split {split_of[path]!r} already")
        splits.setdefault(split, {}).setdefault(path, []).extend(caption(c, where) for c in captions)
    if not splits:
        raise UserError(f"{table}: no captions")
    return splits


def by_image(splits: Splits) -> dict[str, list[list[str]]]:
    """The captions of each split's images, for `Raw`."""
    return {split: list(images.values()) for split, images in splits.items()}


def with_validation(splits: Splits) -> tuple[Splits, tuple[str, ...]]:
    """Splits with a `val`: where a set has none, a tenth of train; and a line that says so.

    The digest of an image's name decides, so that an image stays where it is when others are added. A set of
    fewer than 20 images stays as it is.
    """
    train = splits.get("train", {})
    if splits.keys() & {"val", "dev"} or len(train) < MIN_SHARED:
        return splits, ()
    order = sorted(train, key=_digest)
    chosen = {image for image in order if _digest(image) < VALIDATION_SHARE * 2**64} or {order[0]}
    parts = {
        "train": {image: captions for image, captions in train.items() if image not in chosen},
        "val": {image: captions for image, captions in train.items() if image in chosen},
    }
    note = f"val: {len(chosen):,} of the {len(train):,} images of train, by a digest of their names"
    return {**splits, **parts}, (note,)


def _digest(image: str) -> int:
    """A number below 2^64 that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(image.encode()).digest()[:8], "big")


def check_distinct(locations: Mapping[str, Hashable]) -> None:
    """UserError where two images of the captions are one: they would be negatives of each other, or leak.

    Args:
        locations: where the picture or the features of each image are.
    """
    image_at: dict[Hashable, str] = {}
    for image, location in locations.items():
        if (other := image_at.setdefault(location, image)) != image:
            raise UserError(f"{image}: is the same as {other}: both are {location}")


def karpathy(path: Path, unused: set[str] | None = None) -> Iterator[Entry]:
    """The images of Karpathy's JSON (https://cs.stanford.edu/people/karpathy/deepimagesent)."""
    table = read_json(path)
    images = table.get("images") if isinstance(table, dict) else None
    if not isinstance(images, list):
        raise UserError(f"{path}: not Karpathy's JSON: no list `images`")
    for k, image in enumerate(images):
        where = f"{path}: images[{k}]"
        try:
            name = os.path.join(image.get("filepath", ""), image["filename"])
            split = _split_name(image["split"], where)
            entry = name, [sentence["raw"] for sentence in image["sentences"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: needs filename, split and sentences[].raw") from error
        yield where, "train" if split == "restval" else split, *entry


def sentence_ids(path: Path, splits: Splits) -> dict[str, list[list[int]]]:
    """The `sentid` of each caption in Karpathy's JSON: for COCO the number of its annotation.

    Args:
        path: the file of captions.
        splits: the captions that are used, of each image the first ones.

    Returns:
        The numbers by split and image; {} if the file is in another form, or lacks some.
    """
    if path.suffix != ".json":
        return {}
    ids: dict[str, list[int]] = {}
    for image in read_json(path)["images"]:  # `karpathy` has checked the form
        numbers = [sentence.get("sentid") for sentence in image["sentences"]]
        if not all(type(number) is int for number in numbers):
            return {}
        name = os.path.normpath(os.path.join(image.get("filepath", ""), image["filename"]))
        ids.setdefault(name, []).extend(numbers)
    return {
        split: [ids[name][: len(texts)] for name, texts in images.items()] for split, images in splits.items()
    }


def _jsonl(path: Path, unused: set[str]) -> Iterator[Entry]:
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}:{number}"
        try:
            row = parse_json(line, unique=True)
            entry = row["path"], [row["caption"]]
            split = row.get("split")
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error})") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: needs the fields path and caption") from error
        unused |= _unknown_columns(row, where)
        yield where, "train" if split in (None, "") else _split_name(split, where), *entry


def _csv(path: Path, unused: set[str]) -> Iterator[Entry]:
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        columns = next(rows, [])
        if not {"path", "caption"} <= set(columns):
            raise UserError(
                f"{path}:1: needs the columns path and caption, separated by commas; has {columns}"
            )
        if twice := [name for name in columns if columns.count(name) > 1]:
            raise UserError(f"{path}:1: has the column {twice[0]!r} twice")
        unused |= _unknown_columns(columns, f"{path}:1")
        for cells in filter(None, rows):  # an empty line has no cells
            where = f"{path}:{rows.line_num}"
            if len(cells) != len(columns):
                hint = '; a caption with a comma stands in quotes: "red, blue"' * (len(cells) > len(columns))
                raise UserError(f"{where}: {len(cells)} cells, but {len(columns)} columns{hint}")
            row = dict(zip(columns, cells, strict=True))
            yield where, row.get("split") or "train", row["path"], [row["caption"]]
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num}: not CSV ({error})") from error


def _split_name(value: Any, where: str) -> str:
    """A split's name; not `str(value)`, which would make a split "None" of a null."""
    if not isinstance(value, str):
        raise UserError(f"{where}: split is {value!r}, must be text")
    return value


def _unknown_columns(names: Iterable[str], where: str) -> set[str]:
    """Names other than `COLUMNS`; UserError where one is a column misspelt, whose values would be lost."""
    known = set(names)
    for name in known - set(COLUMNS):
        meant = difflib.get_close_matches(name.strip().lower(), COLUMNS, n=1, cutoff=0.7)
        if meant and meant[0] not in known:
            raise UserError(f"{where}: no column {name!r}; did you mean {meant[0]!r}?")
    return known - set(COLUMNS)


FORMATS = {".json": karpathy, ".jsonl": _jsonl, ".csv": _csv}
