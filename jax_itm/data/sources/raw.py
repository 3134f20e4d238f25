"""What a raw data set is to `prepare`, and reading its text files.

What a file says is checked here, once: `caption` and `image_name` tell which texts are taken, and how.

A record is {"name": str, "captions": list[str]} and, as the set has them, "image" (the bytes of a
JPEG or PNG file, or uint8 (h, v, 3)), "regions" float16 (r, f), "boxes" float32 (r, 4), "phrases".
"""

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jax_itm.errors import UserError

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
SURROGATES = re.compile(r"[\ud800-\udfff]")
LONGEST = 1024  # letters of an image's name: what a system takes as a path is less, or little more

Record = dict[str, Any]
Read = Callable[
    ..., Iterator[Record]
]  # (start=0, stop=None): the records of a split from start to before stop


@dataclass(frozen=True)
class Raw:
    """A raw data set: how to read each split (again and again), and what its records hold."""

    splits: dict[str, Read]
    holds: tuple[str, ...]  # of image, regions, boxes, phrases
    region_dim: int | None = None
    captions: dict[str, list[list[str]]] = field(default_factory=dict)  # where known before reading
    kind: str = ""  # which of a set's published splits these are
    notes: tuple[str, ...] = ()  # what a user should know of what was found, a line each
    tally: Counter[str] = field(default_factory=Counter)  # what reading all records has counted


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; UserError names the line that is none."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for, for ever
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
    """What a UTF-8 file of JSON holds; UserError names the line that is wrong."""
    try:
        return parse_json(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def parse_json(text: str) -> Any:
    """What JSON holds; ValueError where it is none, or of what Python cannot read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("not JSON that can be read: nested too deep") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, stripped; UserError where one is empty."""
    # Not splitlines(): it would also split at U+2028 and the like inside a caption.
    lines = [line.strip() for line in read_text(path).split("\n")]
    lines = lines[:-1] if lines[-1] == "" else lines
    for number, line in enumerate(lines, start=1):
        if not line:
            raise UserError(f"{path}:{number}: empty line; every line must be a caption or an id")
    return lines


def caption(text: Any, where: str) -> str:
    """A caption as it is kept: as it was written, in any script, without the blanks around it.

    Controls (Unicode's Cc, such as NUL, tabs and line breaks) become blanks, as tokenizers read them; marks
    of direction and the joiners of emoji stay. A caption of any length is kept: tokenizers cut it.

    Raises:
        UserError: what `plain` refuses, or nothing in it is visible.
    """
    kept = plain(text, where)
    if not any(unicodedata.category(letter)[0] not in "CZ" for letter in kept):
        raise UserError(f"{where}: empty caption")
    return kept


def plain(text: Any, where: str) -> str:
    """The same, where it may be empty: CLIP encodes the empty text, too.

    Raises:
        UserError: it is no text, or it has half of a surrogate pair, which no UTF-8 file can hold and
            JSON's escapes can.
    """
    if not isinstance(text, str):
        raise UserError(f"{where}: a caption is {text!r}, must be text")
    kept = CONTROLS.sub(" ", text).strip()
    _check_pairs(kept, "a caption", where)
    return kept


def image_name(text: Any, where: str) -> str:
    """An image's name or path, as it is; UserError where no file could have it."""
    if not isinstance(text, str):
        raise UserError(f"{where}: an image's name is {text!r}, must be text")
    if not text.strip():
        raise UserError(f"{where}: empty path")
    if len(text) > LONGEST or CONTROLS.search(text):
        raise UserError(f"{where}: an image's name has controls or over {LONGEST:,} letters: {text!r}")
    _check_pairs(text, "an image's name", where)
    return text


def _check_pairs(text: str, what: str, where: str) -> None:
    if found := SURROGATES.search(text):
        raise UserError(f"{where}: {what} has half of a surrogate pair, {found[0]!r}: cut in an emoji?")


def read_table(path: Path) -> dict[str, Any]:
    """A table in JSON; UserError where the file is missing or holds none."""
    table = read_json(path)
    if not isinstance(table, dict):
        raise UserError(f"{path}: not a table in JSON")
    return table
