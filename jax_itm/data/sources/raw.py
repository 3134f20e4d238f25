"""What a reader returns to `prepare`, and how text files from untrusted sources are read.

The texts of raw files are checked here and nowhere else: `caption` and `image_name` decide which ones are
accepted, and in which form they are kept.

A record is {"name": str, "captions": list[str]} and, depending on the source, "image" (the contents of a JPEG
or PNG file, or uint8 (h, v, 3)), "regions" float16 (r, f), "boxes" float32 (r, 4), "phrases".
"""

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jax_itm.errors import UserError

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
SURROGATES = re.compile(r"[\ud800-\udfff]")
MAX_NAME = 1024  # characters of an image's name; file systems allow fewer, or not many more

Record = dict[str, Any]


@runtime_checkable
class Read(Protocol):
    """Reads the records of a split, from number `start` to before `stop`; it can be called repeatedly."""

    def __call__(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """The records, in order."""
        ...


@dataclass(frozen=True)
class Raw:
    """A raw data set: how to read each split, and what its records have.

    Attributes:
        splits: a reader for each split.
        features: of "image", "regions", "boxes" and "phrases", what the records have.
        region_dim: size of a region's features; None where there are no regions.
        captions: the captions of each image by split, where they are known before the records are read.
        kind: which of the published splits of a data set these are: "karpathy", "lists" or "".
        notes: what a user should know about what the files contain, one line each.
        tally: counts that reading all records fills in, by what is counted.
        source_ids: the numbers that the source gives its captions, by split and image; {} where it has none.
        files: that the records are read from; `prepare` notices by them that a source has changed.
        parts: the raw files of a large set, which are read one by one (`parts.py`). Where there are any, the
            set is written in shards, and nothing but these is read.
    """

    splits: Mapping[str, Read]
    features: tuple[str, ...]
    region_dim: int | None = None
    captions: dict[str, list[list[str]]] = field(default_factory=dict)
    kind: str = ""
    notes: tuple[str, ...] = ()
    tally: Counter[str] = field(default_factory=Counter)
    source_ids: Mapping[str, list[list[int]]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    parts: tuple[Any, ...] = ()  # of `Part`, whose module uses this one


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; UserError names the line that is not UTF-8."""
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would wait for ever
        raise UserError(f"{path}: not a file")
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_json(path: Path) -> Any:
    """The contents of a JSON file; UserError names the line that is wrong."""
    try:
        return parse_json(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def parse_json(text: str, unique: bool = False) -> Any:
    """What JSON describes; ValueError where it is not JSON, or where Python cannot read it.

    Args:
        text: the JSON.
        unique: whether a name that an object has twice is an error; otherwise the last value counts.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_names if unique else None)
    except RecursionError as error:
        raise ValueError("not JSON that can be read: nested too deep") from error


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} twice")
    return table


def read_table(path: Path) -> dict[str, Any]:
    """The contents of a JSON file that holds an object; UserError where it is missing or holds none."""
    table = read_json(path)
    if not isinstance(table, dict):
        raise UserError(f"{path}: not a table in JSON")
    return table


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without surrounding blanks; UserError where one is empty."""
    # Not splitlines(): it would also split at U+2028 and the like within a caption.
    lines = [line.strip() for line in read_text(path).split("\n")]
    lines = lines[:-1] if lines[-1] == "" else lines
    for number, line in enumerate(lines, start=1):
        if not line:
            raise UserError(f"{path}:{number}: empty line; every line must be a caption or an id")
    return lines


def caption(text: Any, where: str) -> str:
    """A caption in the form in which it is kept: as written, in any script, without surrounding blanks.

    Control characters (Unicode's category Cc, such as NUL, tabs and line breaks) become blanks, as tokenizers
    read them; direction marks and the joiners of emoji stay. A caption may have any length: tokenizers cut
    it.

    Args:
        text: what the file has as a caption.
        where: its position in the file, for errors.

    Raises:
        UserError: `plain` refuses it, or nothing in it is visible.
    """
    kept = plain(text, where)
    if not any(unicodedata.category(character)[0] not in "CZ" for character in kept):
        raise UserError(f"{where}: empty caption")
    return kept


def plain(text: Any, where: str) -> str:
    """As `caption`, but the text may be empty: CLIP encodes the empty text, too.

    Raises:
        UserError: it is not text, or it contains half of a surrogate pair, which JSON can escape but no UTF-8
            file can hold.
    """
    if not isinstance(text, str):
        raise UserError(f"{where}: a caption is {text!r}, must be text")
    kept = CONTROLS.sub(" ", text).strip()
    _check_surrogates(kept, "a caption", where)
    return kept


def image_name(text: Any, where: str) -> str:
    """An image's name or path, unchanged; UserError where no file could have it."""
    if not isinstance(text, str):
        raise UserError(f"{where}: an image's name is {text!r}, must be text")
    if not text.strip():
        raise UserError(f"{where}: empty path")
    if len(text) > MAX_NAME or CONTROLS.search(text):
        raise UserError(
            f"{where}: an image's name has control characters or more than {MAX_NAME:,} characters: {text!r}"
        )
    _check_surrogates(text, "an image's name", where)
    return text


def _check_surrogates(text: str, what: str, where: str) -> None:
    if match := SURROGATES.search(text):
        raise UserError(f"{where}: {what} has half of a surrogate pair, {match[0]!r}: a cut emoji?")
