"""The file of an index: an SQLite database of pictures, captions, their encodings, and thumbnails.

Each batch is one transaction, so an index whose building was interrupted has all batches but the last,
and the same command completes it. Ids are never reused.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_itm.errors import UserError
from jax_itm.search.encodings import Items

FILE = "index.sqlite"
FORMAT = "2"
KINDS = ("picture", "caption")
ROWS_AT_ONCE = 500  # SQLite allows 32,766 values in a query

SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE pictures (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL, size INTEGER NOT NULL,
    modified INTEGER NOT NULL, changed INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
    digest BLOB NOT NULL);
CREATE TABLE unreadable (name TEXT PRIMARY KEY, size INTEGER NOT NULL, modified INTEGER NOT NULL,
    changed INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE TABLE captions (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL);
CREATE TABLE picture_vectors (
    id INTEGER PRIMARY KEY REFERENCES pictures ON DELETE CASCADE, value BLOB NOT NULL);
CREATE TABLE picture_tokens (
    id INTEGER PRIMARY KEY REFERENCES pictures ON DELETE CASCADE, value BLOB NOT NULL);
CREATE TABLE caption_vectors (
    id INTEGER PRIMARY KEY REFERENCES captions ON DELETE CASCADE, value BLOB NOT NULL);
CREATE TABLE caption_tokens (
    id INTEGER PRIMARY KEY REFERENCES captions ON DELETE CASCADE, value BLOB NOT NULL);
CREATE TABLE thumbnails (
    id INTEGER PRIMARY KEY REFERENCES pictures ON DELETE CASCADE, jpeg BLOB NOT NULL);
"""


class Stamp(NamedTuple):
    """By what a file is noticed that may have changed; times are in nanoseconds.

    Attributes:
        size: in bytes.
        modified: the date of its contents, which a copy may bring along.
        changed: when anything of the file was last changed, which no program can set. (On Windows: created.)
    """

    size: int
    modified: int
    changed: int


class Picture(NamedTuple):
    """A picture to be added.

    Attributes:
        name: its path below the folder of pictures.
        stamp: of its file.
        width: in pixels, upright.
        height: in pixels, upright.
        digest: of its file's contents.
        thumbnail: a JPEG.
    """

    name: str
    stamp: Stamp
    width: int
    height: int
    digest: bytes
    thumbnail: bytes


class Store:
    """An open index; one object may be shared by threads.

    Args:
        folder: of the index.
        create: whether to make it where it is not there; otherwise it is only read.

    Raises:
        UserError: there is no index, or it is damaged or of another version.
    """

    def __init__(self, folder: str | Path, create: bool = False):
        self.folder = Path(folder)
        file = self.folder / FILE
        if not create and not file.is_file():
            raise UserError(f"{folder}: no index there; make one: python -m jax_itm index --out {folder} ..")
        self._lock = threading.RLock()
        mode = "rwc" if create else "rw"  # what a killed process left unfinished is undone by who opens it
        with self._report_damage():
            # '?' and '#' would end the path of a URI.
            uri = f"{file.absolute().as_uri()}?mode={mode}"
            self._connection = sqlite3.connect(uri, uri=True, timeout=10, check_same_thread=False)
            self._connection.execute("PRAGMA foreign_keys = ON")
            if create and not self._connection.execute("SELECT name FROM sqlite_master").fetchone():
                self._connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
                self.set_facts(format=FORMAT)
        if self.fact("format") != FORMAT:
            raise UserError(f"{folder}: an index of another version; make it again in another folder")

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def fact(self, name: str) -> str:
        """A fact of the index; "" where it is not known."""
        rows = self._rows("SELECT value FROM facts WHERE name = ?", [name])
        return rows[0][0] if rows else ""

    def set_facts(self, **facts: str) -> None:
        """Writes facts of the index."""
        with self.transaction():
            self._connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())

    def count(self, kind: str) -> int:
        """How many items of a kind, "picture" or "caption", there are."""
        return self._rows(f"SELECT COUNT(*) FROM {_known(kind)}s")[0][0]

    def stamps(self) -> dict[str, Stamp]:
        """The stamp of each picture by its name."""
        rows = self._rows("SELECT name, size, modified, changed FROM pictures")
        return {name: Stamp(*stamp) for name, *stamp in rows}

    def digests(self) -> dict[str, bytes]:
        """The digest of each picture's contents by its name."""
        return dict(self._rows("SELECT name, digest FROM pictures"))

    def restamp(self, stamps: Mapping[str, Stamp]) -> None:
        """Gives pictures, by name, other stamps."""
        with self.transaction() as connection:
            update = "UPDATE pictures SET size = ?, modified = ?, changed = ? WHERE name = ?"
            connection.executemany(update, [(*stamp, name) for name, stamp in stamps.items()])

    def unreadable(self) -> dict[str, tuple[Stamp, str]]:
        """The stamp of each file that could not be read, and why, by its name."""
        rows = self._rows("SELECT name, size, modified, changed, reason FROM unreadable ORDER BY name")
        return {name: (Stamp(*stamp), reason) for name, *stamp, reason in rows}

    def captions(self) -> list[str]:
        """All captions, by id."""
        return [name for (name,) in self._rows("SELECT name FROM captions ORDER BY id")]

    def names(self, kind: str, ids: Sequence[int]) -> dict[int, str]:
        """The paths of pictures, or the texts of captions, by id; ids that are not there are left out."""
        return dict(self._by_id(f"SELECT id, name FROM {_known(kind)}s WHERE id IN", ids))

    def size(self, picture: int) -> tuple[int, int]:
        """Width and height of a picture; UserError where there is none of that id."""
        rows = self._rows("SELECT width, height FROM pictures WHERE id = ?", [picture])
        if not rows:
            raise UserError(f"picture {picture}: not in the index")
        return rows[0]

    def thumbnail(self, picture: int) -> bytes:
        """The thumbnail of a picture, a JPEG; UserError where there is none of that id."""
        rows = self._rows("SELECT jpeg FROM thumbnails WHERE id = ?", [picture])
        if not rows:
            raise UserError(f"picture {picture}: not in the index")
        return rows[0][0]

    def vectors(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids int64 (n,), ascending, and the vectors float32 (n, d) of all items of a kind."""
        count = self.count(kind)
        dim = int(self.fact("dim") or 0)
        ids = np.zeros(count, np.int64)
        vectors = np.zeros((count, dim), np.float32)
        with self._report_damage():
            rows = self._connection.execute(f"SELECT id, value FROM {_known(kind)}_vectors ORDER BY id")
            for row, (number, value) in enumerate(rows):
                ids[row] = number
                vectors[row] = np.frombuffer(value, np.float32)
        return ids, vectors

    def tokens(self, kind: str, ids: Sequence[int]) -> list[np.ndarray]:
        """The true tokens (r, d) of items, in the order of `ids`."""
        dim = int(self.fact("dim"))
        found = dict(self._by_id(f"SELECT id, value FROM {_known(kind)}_tokens WHERE id IN", ids))
        with self._report_damage():
            return [np.frombuffer(found[number], np.float32).reshape(-1, dim) for number in ids]

    def vectors_of(self, kind: str, ids: Sequence[int]) -> np.ndarray:
        """The vectors (n, d) of items, in the order of `ids`."""
        found = dict(self._by_id(f"SELECT id, value FROM {_known(kind)}_vectors WHERE id IN", ids))
        with self._report_damage():
            return np.stack([np.frombuffer(found[number], np.float32) for number in ids])

    def add_pictures(self, pictures: Sequence[Picture], items: Items) -> None:
        """Adds pictures with their encodings."""
        ids = []
        with self.transaction() as connection:
            columns = "name, size, modified, changed, width, height, digest"
            insert = f"INSERT INTO pictures ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)"
            for name, stamp, width, height, digest, thumbnail in pictures:
                row = (name, *stamp, width, height, digest)
                ids.append(connection.execute(insert, row).lastrowid)
                connection.execute("INSERT INTO thumbnails VALUES (?, ?)", (ids[-1], thumbnail))
            self._add_items("picture", ids, items)

    def add_captions(self, captions: Sequence[str], items: Items) -> None:
        """Adds captions with their encodings."""
        with self.transaction() as connection:
            insert = "INSERT INTO captions (name) VALUES (?)"
            ids = [connection.execute(insert, [text]).lastrowid for text in captions]
            self._add_items("caption", ids, items)

    def add_unreadable(self, files: Iterable[tuple[str, Stamp, str]]) -> None:
        """Notes files that cannot be read: name, stamp and reason."""
        with self.transaction() as connection:
            rows = [(name, *stamp, reason) for name, stamp, reason in files]
            connection.executemany("INSERT OR REPLACE INTO unreadable VALUES (?, ?, ?, ?, ?)", rows)

    def remove(self, table: str, names: Iterable[str]) -> None:
        """Removes the rows of these names from "pictures", "captions" or "unreadable"."""
        with self.transaction() as connection:
            connection.executemany(f"DELETE FROM {table} WHERE name = ?", [(name,) for name in names])

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written inside, or nothing."""
        with self._lock, self._report_damage(), self._connection as connection:
            yield connection

    def _add_items(self, kind: str, ids: Sequence[int | None], items: Items) -> None:
        execute = self._connection.executemany
        vectors = [(n, v.tobytes()) for n, v in zip(ids, items.vectors, strict=True)]
        execute(f"INSERT INTO {kind}_vectors VALUES (?, ?)", vectors)
        if items.tokens is not None:
            tokens = [(n, t.tobytes()) for n, t in zip(ids, items.tokens, strict=True)]
            execute(f"INSERT INTO {kind}_tokens VALUES (?, ?)", tokens)

    def _by_id(self, query: str, ids: Sequence[int]) -> list[tuple]:
        rows = []
        for start in range(0, len(ids), ROWS_AT_ONCE):
            some = [int(number) for number in ids[start : start + ROWS_AT_ONCE]]
            rows += self._rows(f"{query} ({', '.join('?' * len(some))})", some)
        return rows

    def _rows(self, query: str, values: Sequence[str | int] = ()) -> list[tuple]:
        with self._lock, self._report_damage():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _report_damage(self) -> Iterator[None]:
        """Turns what a damaged file raises into a UserError."""
        try:
            yield
        except (sqlite3.Error, ValueError, KeyError, IndexError) as error:
            raise UserError(f"{self.folder / FILE}: cannot be used ({error})") from error


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}")
    return kind
