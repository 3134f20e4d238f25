"""LMDB databases that others wrote, opened to read.

LMDB believes what a file says of itself: where a value goes on beyond its end, reading it ends the process
by a signal (90 of 2,000 files with two bytes of their tree changed). So what will be read is looked up first
in a process of its own.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jax_itm.errors import UserError

Opened = Mapping[Path, Any]  # the databases, each with a transaction that reads it

# Values lie in one piece: where both ends can be read, so can the middle.
LOOK = """
import sys, lmdb
with lmdb.open(sys.argv[1], readonly=True, create=False, lock=False, readahead=False) as database:
    with database.begin(buffers=True) as transaction:
        for key in sys.stdin.buffer.read().split(b"\\n"):
            try:
                value = transaction.get(key)
            except lmdb.Error:
                continue
            if value:
                value[0], value[-1]
"""


@contextlib.contextmanager
def opened(paths: list[Path]) -> Iterator[Opened]:
    """The databases, open for reading; only while they are read, as LMDB opens a file only once.

    Raises:
        UserError: one is none, or truncated, or there is no package `lmdb`.
    """
    with contextlib.ExitStack() as stack:
        found = {}
        for path in paths:
            lmdb = package("lmdb", str(path))
            try:  # without lock: the folder may be another's, and nobody writes to it
                database = lmdb.open(
                    os.fspath(path), readonly=True, create=False, lock=False, readahead=False
                )
            except lmdb.Error as error:
                raise UserError(f"{path}: not a readable LMDB database ({error})") from error
            stack.enter_context(database)
            size = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
            if (path / "data.mdb").stat().st_size < size:  # reading behind the end would be a SIGBUS
                raise UserError(f"{path / 'data.mdb'}: truncated, must have {size:,} bytes")
            found[path] = stack.enter_context(database.begin(buffers=True))
        yield found


def check(path: Path, keys: Iterable[str]) -> None:
    """Looks the keys up in another process; UserError where that ends by a signal.

    Errors that LMDB tells are left to `value`.
    """
    asked = "\n".join(keys).encode()
    status = subprocess.run(
        [sys.executable, "-P", "-c", LOOK, os.fspath(path)], input=asked, capture_output=True
    ).returncode
    if status < 0:
        raise UserError(f"{path}: damaged: reading it ends a process ({signal.Signals(-status).name})")


def value(transaction: Any, path: Path, key: str) -> memoryview | None:
    """What a database has under a key; None where it has none."""
    try:
        return transaction.get(key.encode())
    except Exception as error:  # lmdb has some twenty
        raise UserError(f"{path}: {key} cannot be read ({error})") from error


def package(name: str, where: str) -> Any:
    """A package that is installed only where it is wanted, to read `where`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{where}: reading it needs the package {name}: pip install lmdb msgpack") from error
