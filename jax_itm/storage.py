"""Where the files of a run are stored: a local directory or a bucket (gs://BUCKET/RUN)."""

import contextlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from etils import epath

from jax_itm.errors import UserError

# etils reads buckets with gcsfs, so that no TensorFlow is needed; it looks once, at its first path.
os.environ.setdefault("EPATH_USE_TF", "0")

FilePath = TypeVar("FilePath", Path, epath.Path)


def is_bucket(location: str | os.PathLike) -> bool:
    """Whether `location` names a bucket."""
    return "://" in os.fspath(location)


def as_path(location: str | os.PathLike) -> epath.Path:
    """A path that reads and writes local files and buckets alike.

    Raises:
        UserError: it names a bucket that is not on Google Cloud Storage, or gcsfs is not installed.
    """
    if is_bucket(location):
        if not os.fspath(location).startswith("gs://"):
            raise UserError(f"{location}: the only buckets that can be read and written are gs://")
        if importlib.util.find_spec("gcsfs") is None:
            raise UserError(f"{location}: needs the package gcsfs: pip install -e .[gcs]")
    return epath.Path(location)


def local_path(location: str | os.PathLike, option: str) -> Path:
    """The path `location`, which must be local.

    Raises:
        UserError: it is a bucket; `option` is the option that named it.
    """
    if is_bucket(location):
        raise UserError(
            f"{option} {location}: data are written to a local disk; prepare them there, and copy them with"
            f" `gcloud storage rsync --recursive DIR {location}`"
        )
    return Path(location)


def check_writable(file: str, option: str) -> None:
    """Raises UserError if a file could not be written, before the hours that it takes to know what to write.

    A bucket is believed.

    Args:
        file: to be written later.
        option: that named it.
    """
    folder = Path(file).parent
    if is_bucket(file):
        return
    if not folder.is_dir():
        raise UserError(f"{option} {file}: there is no folder {folder}")
    if Path(file).is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{option} {file}: cannot be written")


def json_lines(path: FilePath) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines, up to one that is cut short; none where there is no file."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


@contextlib.contextmanager
def replacing(path: FilePath) -> Iterator[FilePath]:
    """A path beside `path` to write to; what is there takes the place of `path` when the block has ended.

    So a reader, or who comes after a crash of this process, finds the old file or all of the new one. If the
    block raises, nothing is left of the new one. (Nothing is synced: a crash of the machine may lose it.)

    Example:
        >>> with replacing(Path("result.json")) as partial:
        ...     partial.write_text("{}")
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


class AppendableFolder:
    """A folder of files that are appended to, such as logs.

    Files in a bucket cannot be appended to: they are written in a local folder and copied there by `sync`.

    Attributes:
        path: the local folder to write in.
    """

    def __init__(self, location: str):
        self._bucket = as_path(location) if is_bucket(location) else None
        self.path = Path(tempfile.mkdtemp(prefix="jax_itm-")) if self._bucket else Path(location)

    def fetch(self, name: str) -> Path:
        """The local path of the file `name`, copied from the bucket if it exists there."""
        local = self.path / name
        if self._bucket and (remote := self._bucket / name).exists():
            local.write_bytes(remote.read_bytes())
        return local

    def sync(self) -> None:
        """Copies all files to the bucket, if there is one."""
        if not self._bucket:
            return
        for local in self.path.rglob("*"):
            if local.is_file():
                remote = self._bucket / local.relative_to(self.path).as_posix()
                remote.parent.mkdir(parents=True, exist_ok=True)
                remote.write_bytes(local.read_bytes())
