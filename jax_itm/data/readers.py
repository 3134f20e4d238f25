"""What a raw data set is to `prepare`, and reading its text files.

A record is {"name": str, "captions": list[str]} and, as the set has them, "image" (the bytes of a
JPEG or PNG file, or uint8 (h, v, 3)), "regions" float16 (r, f), "boxes" float32 (r, 4), "phrases".
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jax_itm.types import UserError

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
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, stripped; UserError where one is empty."""
    # Not splitlines(): it would also split at U+2028 and the like inside a caption.
    lines = [line.strip() for line in read_text(path).split("\n")]
    lines = lines[:-1] if lines[-1] == "" else lines
    for number, line in enumerate(lines, start=1):
        if not line:
            raise UserError(f"{path}:{number}: empty line; every line must be a caption or an id")
    return lines
