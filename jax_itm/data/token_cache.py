"""Tokens of frozen backbones, computed once and stored with a prepared data set (`prepare --encode`).

`DATA_DIR/NAME/tokens/KEY/` holds, for each split and side, all true tokens of its items one after another,
float16 (n, f) in a plain file, and an .npz that says where the tokens of each item start, and f. The key is a
digest of all that the tokens depend on, so that tokens of another backbone or other captions are never read.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jax_itm.errors import UserError
from jax_itm.storage import replacing
from jax_itm.types import Config


class Tokens:
    """The tokens of a split's items: `tokens[k]` is float16 (n, f). Can be sent to other processes.

    Args:
        path: of the files, without their suffixes.

    Raises:
        ValueError: the files do not fit each other.
    """

    def __init__(self, path: str):
        with np.load(f"{path}.npz", allow_pickle=False) as index:
            self.starts = index["starts"]
            self.width = int(index["width"])
        self._path = path
        self._values = np.memmap(f"{path}.tokens", np.float16, "r")
        if self.starts.dtype.kind != "i" or self.starts[0] or np.any(np.diff(self.starts) < 0):
            raise ValueError("its items do not follow one another")
        if self.width < 1 or self._values.size != self.starts[-1] * self.width:
            raise ValueError("it does not hold as many tokens as it says")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, k: int) -> np.ndarray:
        start, end = self.starts[k : k + 2] * self.width
        return self._values[start:end].reshape(-1, self.width)

    def __reduce__(self) -> tuple[type["Tokens"], tuple[str]]:
        return Tokens, (self._path,)  # the file is opened again, not copied


def pad_tokens(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Tokens (n_k, f) of each row -> float16 (b, length, f), with zeros after them."""
    padded = np.zeros((len(rows), length, rows[0].shape[1]), np.float16)
    for row, tokens in zip(padded, rows, strict=True):
        row[: len(tokens)] = tokens
    return padded


def cache_key(backbone: Mapping[str, Any], arch: Config, settings: Mapping[str, Any]) -> str:
    """A digest of a backbone's parameters (by path), its architecture, and how its inputs are made."""
    digest = hashlib.sha256(json.dumps([dict(arch), dict(settings)], sort_keys=True).encode())
    for path in sorted(backbone):
        value = np.ascontiguousarray(backbone[path], np.float32)
        digest.update(f"{path} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()[:16]


def open_tokens(path: str) -> Tokens | None:
    """The tokens at a path; None if there are none yet.

    Raises:
        UserError: they are damaged.
    """
    if not Path(f"{path}.npz").exists():
        return None
    try:
        return Tokens(path)
    except Exception as error:  # zipfile, zlib and numpy raise every kind
        raise UserError(f"{path}.npz: damaged; remove it and encode again ({error})") from error


@contextmanager
def token_writer(path: str) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """Gives `add(tokens (n, f), counts (items,))` for the next items.

    `open_tokens` sees them only after the block has ended without an error.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    counts = [np.zeros(1, np.int64)]
    width = 0
    with replacing(Path(f"{path}.tokens")) as partial, partial.open("wb") as file:

        def add(tokens: np.ndarray, items: np.ndarray) -> None:
            nonlocal width
            width = tokens.shape[1]
            file.write(tokens.astype(np.float16).tobytes())
            counts.append(items)

        yield add
    # Last, because its existence says that the tokens are complete.
    with replacing(Path(f"{path}.npz")) as partial, partial.open("wb") as file:
        np.savez(file, starts=np.cumsum(np.concatenate(counts)), width=width)
