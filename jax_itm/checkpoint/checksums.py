"""Checksums of the files of a checkpoint, to detect files that have changed since they were written.

Orbax and its storage check the structure of a file, not every byte of an array: of 60 single bits flipped at
random in saved arrays, Orbax 0.12 restored 59 as other values without an error. A checkpoint therefore keeps
the SHA-256 of every file of its items; one without them was not written completely.
"""

import hashlib
import json

from etils import epath

from jax_itm.errors import UserError

FILE = "checksums.json"
CHUNK = 2**22  # bytes read at a time


def write(checkpoint: epath.Path) -> None:
    """Writes the checksums of all items of a checkpoint, before it is renamed to its final name."""
    items = [part for part in checkpoint.iterdir() if part.is_dir()]
    files = [file for item in items for file in _files(item)]
    checksums = {str(file.relative_to(checkpoint)): _sha256(file) for file in files}
    (checkpoint / FILE).write_text(json.dumps(checksums, indent=0))


def verify(checkpoint: epath.Path, *items: str) -> None:
    """Compares the files of `items`, by default of all, with their checksums.

    Raises:
        UserError: names the first file that is missing or has changed.
    """
    table = checkpoint / FILE
    if not table.exists():
        raise UserError(f"{table} is missing")
    try:
        checksums = dict(json.loads(table.read_text()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{table} is damaged") from error
    for name, checksum in checksums.items():
        if items and name.split("/")[0] not in items:
            continue
        file = checkpoint / name
        if not file.exists():
            raise UserError(f"{file} is missing")
        if _sha256(file) != checksum:
            raise UserError(f"{file} is damaged: it is not what was written")


def _sha256(file: epath.Path) -> str:
    checksum = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            checksum.update(chunk)
    return checksum.hexdigest()


def _files(folder: epath.Path) -> list[epath.Path]:
    parts = sorted(folder.iterdir())
    return [file for part in parts for file in ([part] if part.is_file() else _files(part))]
