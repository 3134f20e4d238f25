"""Opens LMDB databases from untrusted sources, read-only.

LMDB trusts its file: where the file says that a value extends beyond the end, reading that value ends the
process with a signal (for 90 of 2,000 files with two bytes of their tree changed). So another process reads
everything that will be read first.
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

Opened = Mapping[Path, Any]  # a read transaction for each database

# A value is contiguous: where both of its ends can be read, its middle can be, too.
PROBE = """
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
    """Opens databases for reading; keep them open no longer than needed, as LMDB opens a file only once.

    Raises:
        UserError: a file is not a database or is truncated, or the package `lmdb` is missing.
    """
    with contextlib.ExitStack() as stack:
        transactions = {}
        for path in paths:
            lmdb = optional_package("lmdb", str(path))
            try:  # without a lock: the folder may belong to another user, and nobody writes to it
                database = lmdb.open(
                    os.fspath(path), readonly=True, create=False, lock=False, readahead=False
                )
            except lmdb.Error as error:
                raise UserError(f"{path}: not a readable LMDB database ({error})") from error
            stack.enter_context(database)
            size = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
            if (path / "data.mdb").stat().st_size < size:  # reading beyond the end would be a SIGBUS
                raise UserError(f"{path / 'data.mdb'}: truncated, must have {size:,} bytes")
            transactions[path] = stack.enter_context(database.begin(buffers=True))
        yield transactions


def check(path: Path, keys: Iterable[str]) -> None:
    """Reads the values of the keys in another process; UserError where a signal ends that process.

    Errors that LMDB itself reports are left to `read_value`.
    """
    command = [sys.executable, "-P", "-c", PROBE, os.fspath(path)]
    status = subprocess.run(command, input="\n".join(keys).encode(), capture_output=True).returncode
    if status < 0:
        raise UserError(f"{path}: damaged: reading it ends a process ({signal.Signals(-status).name})")


def read_value(transaction: Any, path: Path, key: str) -> memoryview | None:
    """The value of a key in a database; None where there is none."""
    try:
        return transaction.get(key.encode())
    except Exception as error:  # lmdb has some twenty kinds
        raise UserError(f"{path}: {key} cannot be read ({error})") from error


def optional_package(name: str, where: str) -> Any:
    """Imports a package that is only needed to read `where`; UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{where}: reading it needs the package {name}: pip install lmdb msgpack") from error
