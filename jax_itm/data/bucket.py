"""Prepared sets in a bucket or at any URL that fsspec reads: shards are cached on a local disk.

ArrayRecord itself reads local files and, in builds with Google's client, gs://, record by record: a request
each. Batches are random records of some sixteen shards, so each host keeps the shards that it has read in a
folder of its disk (`JAX_ITM_CACHE`, or ~/.cache/jax_itm), which after an epoch holds the whole set.
"""

import hashlib
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

from jax_itm.data.shards import INDEX
from jax_itm.errors import UserError

CACHE = "JAX_ITM_CACHE"
_COPYING: dict[Path, threading.Lock] = {}  # by local file


class CachedFolder(NamedTuple):
    """The folder of a set at a URL, and the local folder of what has been read of it."""

    url: str
    path: Path

    def file(self, name: str) -> Path:
        """The local copy of a file, which is made where there is none.

        Raises:
            UserError: it cannot be read, or the copy cannot be written.
        """
        local = self.path / name
        # One thread copies, the others wait for it: a file is read once, and not all file systems of fsspec
        # can read one file twice at once.
        with _COPYING.setdefault(local, threading.Lock()):
            if not local.exists():
                self._copy(name, local)
        return local

    def _copy(self, name: str, local: Path) -> None:
        try:
            handle, partial = tempfile.mkstemp(dir=self.path, prefix=f"{name}.")
            os.close(handle)
            try:
                system, root = _file_system(self.url)
                system.get_file(f"{root}/{name}", partial)
                os.replace(partial, local)  # of several processes that copy it, each has a whole one
            except BaseException:
                os.unlink(partial)
                raise
        except UserError:
            raise
        except Exception as error:  # the libraries of buckets raise exceptions of every kind
            raise UserError(
                f"{self.url}/{name}: cannot be copied to {self.path} ({_one_line(error)})"
            ) from error


def cached_folder(data_dir: str, name: str, version: str) -> CachedFolder:
    """The folder of a set in shards at a URL.

    What is cached belongs to the index as it is now: a set that was prepared anew is read anew.

    Args:
        data_dir: the URL of the prepared data sets, such as gs://BUCKET/data.
        name: of the set.
        version: of the layout on disk.

    Raises:
        UserError: there is no such set in shards, or it cannot be read.
    """
    url = f"{data_dir.rstrip('/')}/{name}/{version}"
    system, root = _file_system(url)
    try:
        index = system.cat_file(f"{root}/{INDEX}")
    except FileNotFoundError as error:
        raise UserError(
            f"--data_dir {data_dir}: no {name}/{version}/{INDEX} there; of buckets, only sets in shards"
            " (huggingface, webdataset) are read; mount it (gcsfuse), or copy the set with"
            " `gcloud storage rsync --recursive`, and name that directory"
        ) from error
    except Exception as error:  # as above
        raise UserError(f"--data_dir {data_dir}: cannot be read ({_one_line(error)})") from error
    cache = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "jax_itm")
    folder = CachedFolder(url, cache / hashlib.sha256(url.encode() + index).hexdigest()[:16] / name / version)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{CACHE}={cache}: cannot be written ({error.strerror})") from error
    return folder


def _file_system(url: str) -> tuple[Any, str]:  # an fsspec file system, and the path in it
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except Exception as error:  # an unknown protocol, a package that is missing, credentials
        raise UserError(f"--data_dir {url}: cannot be read ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
