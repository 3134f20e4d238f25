"""Digests of a checkpoint's files: whether they are still what was written.

Orbax and its storage check how a file is built, not each byte of an array: of 60 single bits turned at
random in saved arrays, Orbax 0.12 gave 59 back as other values, without an error. So a checkpoint holds the
SHA-256 of every file of its items.
"""

import hashlib
import json

from etils import epath

from jax_itm.errors import UserError

FILE = "digests.json"
CHUNK = 2**22  # bytes read at a time


def _digest(file: epath.Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(CHUNK):
            found.update(part)
    return found.hexdigest()


def _files(folder: epath.Path) -> list[epath.Path]:
    parts = sorted(folder.iterdir())
    return [file for part in parts for file in ([part] if part.is_file() else _files(part))]


def write(checkpoint: epath.Path) -> None:
    """Writes the digests of all items of a checkpoint, before it counts as one."""
    items = [part for part in checkpoint.iterdir() if part.is_dir()]
    files = [file for item in items for file in _files(item)]
    table = {str(file.relative_to(checkpoint)): _digest(file) for file in files}
    (checkpoint / FILE).write_text(json.dumps(table, indent=0))


def check(checkpoint: epath.Path, *items: str) -> None:
    """Compares the files of `items`, by default all, with their digests; runs of old have none.

    Raises:
        UserError: names the first file that is missing or has changed.
    """
    if not (checkpoint / FILE).exists():
        return
    try:
        table = dict(json.loads((checkpoint / FILE).read_text()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{checkpoint / FILE} is damaged") from error
    for name, digest in table.items():
        if items and name.split("/")[0] not in items:
            continue
        file = checkpoint / name
        if not file.exists():
            raise UserError(f"{file} is missing")
        if _digest(file) != digest:
            raise UserError(f"{file} is damaged: it is not what was written")
