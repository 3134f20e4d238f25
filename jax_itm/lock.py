"""A lock on a folder: a second process would remove what the first one is writing."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from jax_itm.errors import UserError
from jax_itm.storage import is_bucket

FILE = "lock"


@contextlib.contextmanager
def locked(folder: str, kind: str) -> Iterator[None]:
    """Keeps other processes out of `folder`, for as long as they ask here.

    The file names the process and its host. The system itself frees it when that process ends, however it
    ends, so that what a killed one left behind holds nobody up. A bucket, and a file system without locks,
    are not locked.

    Args:
        folder: made if it is not there, and removed again if nothing is written into it.
        kind: of what runs there, for the error: "training".

    Raises:
        UserError: another process holds it.
    """
    if is_bucket(folder):
        yield
        return
    file = Path(folder) / FILE
    is_new = not file.parent.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = _lock(file)
    if handle is None:
        raise UserError(f"{folder}: another {kind} runs there, {_holder(file)}")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)
        if is_new:  # a run that could not start leaves nothing behind
            with contextlib.suppress(OSError):  # it holds a run
                file.parent.rmdir()


def hold(handle: int) -> bool:
    """Locks an open file or folder until it is closed; False where the file system has no locks.

    Raises:
        BlockingIOError: another process holds it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _holder(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # it has ended meanwhile
        return "or did until just now"


def _lock(file: Path) -> int | None:
    """A handle that holds the lock; None where another process holds it."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            hold(handle)
        except BlockingIOError:
            os.close(handle)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.stat(file).st_ino == os.fstat(handle).st_ino:
                break
        os.close(handle)  # the last holder removed the file between our opening and locking it
    os.truncate(handle, 0)
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode())
    return handle
