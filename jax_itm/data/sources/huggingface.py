"""Parquet files of pictures with captions, as data sets are kept on Hugging Face's hub."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jax_itm.data.image_transforms import MAX_PIXELS
from jax_itm.data.images import IMAGE_SUFFIXES
from jax_itm.data.sources.captions import SPLIT_NAME
from jax_itm.data.sources.columns import Columns, captions_of, find_columns
from jax_itm.data.sources.karpathy import MAX_CAPTIONS
from jax_itm.data.sources.parts import SPLITS, BadRow, Row, is_inside, read_split, split_of_path
from jax_itm.data.sources.raw import Raw, caption, image_name
from jax_itm.errors import UserError

ROWS_AT_ONCE = 64  # of a row group: what is in memory of it, besides Arrow's own buffers
PARQUET_BRANCH = "refs/convert/parquet"  # where the hub converts a set whose own files are others
HUB_NAME = r"[\w.-]+/[\w.-]+"
MAX_FILE = 2**28  # bytes of a picture that a path names


@dataclass(frozen=True)
class ParquetPart:
    """One parquet file.

    Attributes:
        file: the file.
        base: the folder of the set, to which paths of pictures are relative.
        split: of its rows, where it has no column that says so.
        columns: which column is what.
        captions_kept: captions that an image of `val` and `test` keeps; 0 keeps all.
    """

    file: Path
    base: Path
    split: str
    columns: Columns
    captions_kept: int

    def count(self) -> int:
        """The number of its rows."""
        return _open(self.file).metadata.num_rows

    def rows(self, with_images: bool = True) -> Iterator[Row | BadRow]:
        """Its rows, a few at a time, row group by row group.

        Raises:
            UserError: the file is damaged.
        """
        names = self.columns.names(with_images)
        file = _open(self.file)
        number = 0
        try:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=names, use_threads=False):
                for values in batch.to_pylist():
                    yield self._row(number, values, with_images)
                    number += 1
        except UserError:
            raise
        except Exception as error:  # Arrow raises exceptions of every kind, and some of Python's
            raise UserError(f"{self.file}: damaged after row {number} ({_one_line(error)})") from error

    def _row(self, number: int, values: dict[str, Any], with_images: bool) -> Row | BadRow:
        where = f"{self.file.name}:{number}"
        columns = self.columns
        try:
            texts = [caption(text, where) for name in columns.captions for text in captions_of(values[name])]
            if not texts:
                raise UserError(f"{where}: no caption")
            split = self._split(values, where)
            key = _text(values[columns.key]) if columns.key else ""
            image, path = self._image(values[columns.image]) if with_images else (b"", "")
            stated = values[columns.name] if columns.name else None
            name = image_name(_text(stated) or path or key or f"{self.file.stem}-{number}", where)
        except UserError as error:
            return BadRow(number, where, str(error).removeprefix(f"{where}: "))
        return Row(number, where, name, texts, split, image, key)

    def _split(self, values: dict[str, Any], where: str) -> str:
        split = _text(values[self.columns.split]) if self.columns.split else ""
        split = SPLITS.get(split, split) or self.split
        if not SPLIT_NAME.fullmatch(split) or split == "all":
            raise UserError(f"{where}: split {split!r}: must be a word such as train, val or test")
        return split

    def _image(self, value: Any) -> tuple[bytes, str]:
        """The contents of a picture's file, and its name where it has one."""
        path = ""
        if isinstance(value, dict):
            path = value.get("path") or ""
            value = value.get("bytes") or path
        if isinstance(value, bytes) and value:
            return value, os.path.basename(path)
        if not isinstance(value, str) or not value:
            raise UserError("no picture")
        if not is_inside(value):
            raise UserError(f"{value}: image paths must stay inside {self.base}")
        file = self.base / value
        if not file.is_file() or file.suffix.lower() not in IMAGE_SUFFIXES or file.stat().st_size > MAX_FILE:
            raise UserError(f"{value}: no such image in {self.base}")
        return file.read_bytes(), value


def read_huggingface(
    source: Path, max_pixels: int = MAX_PIXELS, columns: tuple[tuple[str, str], ...] = ()
) -> Raw:
    """A directory of parquet files, in it or below it.

    A row is a picture (bytes, Hugging Face's struct of bytes and path, or a path) with its captions. The
    columns are found by type and name (`columns.py`), the split in a column or in the name of the file or its
    folder. Nothing but the files' schemas, and a column of splits, is read here.

    Args:
        source: the directory, or one parquet file; or the name "owner/set" of a set on Hugging Face's hub.
        max_pixels: not used here: pictures are checked when they are written.
        columns: which column is what, where it is not found.

    Raises:
        UserError: the hub does not provide it, there is no parquet file, or one is damaged or has no pictures
            or captions.
    """
    if not source.exists():
        source = _fetched(str(source))
    base = source if source.is_dir() else source.parent
    files = sorted(base.rglob("*.parquet")) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source}: no .parquet file in it")
    parts = []
    splits: set[str] = set()
    for file in files:
        parquet = _open(file)
        found = find_columns(parquet.schema_arrow, dict(columns), str(file))
        kept = MAX_CAPTIONS if found.is_coco else 0
        part = ParquetPart(file, base, split_of_path(file, base), found, kept)
        splits |= _splits(part)
        parts.append(part)
    notes = [f"columns: {parts[0].columns.said()}"]
    if parts[0].captions_kept:
        notes.append(f"val and test: the first {MAX_CAPTIONS} captions an image")
    reads = {split: partial(read_split, parts, split) for split in sorted(splits)}
    return Raw(reads, ("image",), notes=tuple(notes), files=tuple(files), parts=tuple(parts))


def source_name(source: str) -> str:
    """The absolute path of a directory that is there; another name, of a set on the hub, as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def _fetched(name: str) -> Path:
    """A copy of a set of the hub's, "owner/set".

    Raises:
        UserError: it is no such name, or the hub cannot be reached and no copy was kept.
    """
    if not re.fullmatch(HUB_NAME, name) or name.startswith("."):
        raise UserError(f"--source {name}: no such directory, and not a name on the hub (owner/set)")
    from huggingface_hub import snapshot_download

    kind = {"repo_type": "dataset", "allow_patterns": ["*.parquet"]}
    try:
        folder = Path(snapshot_download(name, **kind))
        if not any(folder.rglob("*.parquet")):
            folder = Path(snapshot_download(name, revision=PARQUET_BRANCH, **kind))
        return folder
    except Exception as error:  # of the hub, of the network, of the disk
        raise UserError(
            f"--source {name}: no such directory, and the hub did not provide it ({_one_line(error)})"
        ) from error


def _splits(part: ParquetPart) -> set[str]:
    name = part.columns.split
    if not name:
        return {part.split}
    try:
        values = _open(part.file).read(columns=[name]).column(name).unique().to_pylist()
    except Exception as error:  # as above
        raise UserError(f"{part.file}: damaged ({_one_line(error)})") from error
    return {SPLITS.get(value, value) for value in map(_text, values) if SPLIT_NAME.fullmatch(value)}


def _open(file: Path) -> Any:  # a pyarrow.parquet.ParquetFile
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{file}: needs the package pyarrow: pip install -e .[huggingface]") from error
    if not file.is_file():
        raise UserError(f"{file}: not a file")
    try:
        return parquet.ParquetFile(file)
    except Exception as error:  # Arrow raises exceptions of every kind
        raise UserError(f"{file}: not a readable parquet file ({_one_line(error)})") from error


def _text(value: Any) -> str:
    """A number or text as text; "" for none, and a digest for anything else."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) else hashlib.sha256(repr(value).encode()).hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
