"""Where a run's files lie: a folder, or a bucket (gs://BUCKET/RUN)."""

import importlib.util
import os
import tempfile
from pathlib import Path

from etils import epath

from jax_itm.errors import UserError

os.environ.setdefault("EPATH_USE_TF", "0")  # etils reads buckets by gcsfs, so that no TensorFlow is needed


def in_bucket(where: str | os.PathLike) -> bool:
    """Whether `where` names a bucket."""
    return "://" in os.fspath(where)


def place(where: str | os.PathLike) -> epath.Path:
    """A path that reads and writes on disk and in buckets alike.

    Raises:
        UserError: it names a bucket of another kind than Google's, or gcsfs is not installed.
    """
    if in_bucket(where):
        if not os.fspath(where).startswith("gs://"):
            raise UserError(f"{where}: of buckets, only gs:// can be read and written")
        if importlib.util.find_spec("gcsfs") is None:
            raise UserError(f"{where}: needs the package gcsfs: pip install -e .[gcs]")
    return epath.Path(where)


def on_disk(where: str | os.PathLike, option: str) -> Path:
    """The folder `where`; UserError for a bucket, whose files can be read only where it is mounted."""
    if in_bucket(where):
        raise UserError(
            f"{option} {where}: data are read from a disk; mount the bucket (gcsfuse), or copy it with"
            f" `gcloud storage rsync --recursive {where} DIR`, and name that folder"
        )
    return Path(where)


class Growing:
    """A folder of files that grow, such as logs.

    A bucket's files cannot be appended to: they grow in a local folder, and are copied by `keep`.

    Attributes:
        path: the local folder, to write in.
    """

    def __init__(self, where: str):
        self._bucket = place(where) if in_bucket(where) else None
        self.path = Path(tempfile.mkdtemp(prefix="jax_itm-")) if self._bucket else Path(where)

    def fetch(self, name: str) -> Path:
        """The local path of the file `name`, brought from the bucket where it is there."""
        local = self.path / name
        if self._bucket and (remote := self._bucket / name).exists():
            local.write_bytes(remote.read_bytes())
        return local

    def keep(self) -> None:
        """Copies all files to the bucket."""
        if not self._bucket:
            return
        for local in self.path.rglob("*"):
            if local.is_file():
                remote = self._bucket / local.relative_to(self.path).as_posix()
                remote.parent.mkdir(parents=True, exist_ok=True)
                remote.write_bytes(local.read_bytes())
