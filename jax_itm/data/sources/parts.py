"""Large raw data sets: files that several processes read one by one, each row by row, in bounded memory."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from jax_itm.data.sources.raw import Record

SPLITS = {"dev": "val", "valid": "val", "validation": "val", "restval": "train"}  # other names of ours
KNOWN_SPLITS = ("train", "val", "test", *SPLITS)


class Row(NamedTuple):
    """One row of a raw file: a picture with its captions.

    Attributes:
        number: of the row in its file, from 0; bad rows count, too.
        where: the file and the row, for messages.
        name: of the picture.
        captions: at least one.
        split: that it belongs to.
        image: the contents of the picture's file; empty where rows are read without pictures.
        key: equal in all rows of one picture; "" where the file does not say.
    """

    number: int
    where: str
    name: str
    captions: list[str]
    split: str
    image: bytes
    key: str


class BadRow(NamedTuple):
    """A row that is left out: where it is, and why."""

    number: int
    where: str
    reason: str


@runtime_checkable
class Part(Protocol):
    """A raw file. It can be pickled and sent to another process, which reads it."""

    @property
    def file(self) -> Path:
        """The file."""
        ...

    @property
    def captions_kept(self) -> int:
        """Captions that an image of `val` and `test` keeps, the first; 0 keeps all."""
        ...

    def count(self) -> int:
        """The number of its rows."""
        ...

    def rows(self, with_images: bool = True) -> Iterator[Row | BadRow]:
        """Its rows in order. Without images, what `image` would cost is saved where the format allows it.

        Raises:
            UserError: the file is damaged, so that what follows cannot be read.
        """
        ...


def split_of_path(file: Path, base: Path) -> str:
    """The split that a file's name or its folders below `base` name, such as train-00000-of-00009.parquet.

    The folders nearest to the file count most; "train" where nothing names a split.
    """
    for name in reversed(file.relative_to(base).parts):
        words = name.lower().replace("_", "-").replace(".", "-").split("-")
        for known in KNOWN_SPLITS:
            if known in words:
                return SPLITS.get(known, known)
    return "train"


def read_split(
    parts: Sequence[Part], split: str, start: int = 0, stop: int | None = None
) -> Iterator[Record]:
    """The records of one split, without its bad rows, as `Raw.splits` wants them."""
    rows = (row for part in parts for row in part.rows() if isinstance(row, Row) and row.split == split)
    for row in islice(rows, start, stop):
        yield {"name": row.name, "captions": row.captions, "image": row.image}


def is_inside(path: str) -> bool:
    """Whether a relative path, which others wrote, stays in the folder that it is relative to."""
    return not os.path.isabs(path) and os.path.normpath(path).split(os.sep)[0] != os.pardir
