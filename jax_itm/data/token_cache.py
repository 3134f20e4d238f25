"""Tokens of frozen towers, made once and kept beside a prepared data set (`prepare --encode`).

`DATA_DIR/NAME/towers/KEY/` has, for each split and side, all true tokens of its items one after another,
float16 (n, f) in a plain file, and an .npz that says where those of each item start, and f. The key is a
digest of all that the tokens depend on, so what another tower made, or of other captions, is never read.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jax_itm.errors import UserError


class Tokens:
    """The tokens of a split's items: `tokens[k]` is float16 (n, f). May be sent to other processes."""

    def __init__(self, place: str):
        with np.load(f"{place}.npz", allow_pickle=False) as known:
            self.starts, self.width = known["starts"], int(known["width"])
        self._place = place
        if self.starts.dtype.kind != "i" or self.starts[0] or np.any(np.diff(self.starts) < 0):
            raise ValueError("its items do not follow one another")
        if self.width < 1 or _open(place).size != self.starts[-1] * self.width:
            raise ValueError("its tokens are not as many as it says")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, k: int) -> np.ndarray:
        start, end = self.starts[k : k + 2] * self.width
        return _open(self._place)[start:end].reshape(-1, self.width)


@functools.lru_cache(maxsize=16)
def _open(place: str) -> np.ndarray:
    return np.memmap(f"{place}.tokens", np.float16, "r")


def padded(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Tokens (n_k, f) of each row -> float16 (b, width, f), zeros behind them."""
    out = np.zeros((len(rows), width, rows[0].shape[1]), np.float16)
    for row, tokens in zip(out, rows, strict=True):
        row[: len(tokens)] = tokens
    return out


def key(tower: Mapping[str, Any], arch: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """A digest of a tower's parameters (by path), its description, and how its inputs are made."""
    digest = hashlib.sha256(json.dumps([dict(arch), dict(settings)], sort_keys=True).encode())
    for path in sorted(tower):
        value = np.ascontiguousarray(tower[path], np.float32)
        digest.update(f"{path} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()[:16]


def find(place: str) -> Tokens | None:
    """The tokens of a place, or None where they were not made; UserError where they are damaged."""
    if not Path(f"{place}.npz").exists():
        return None
    try:
        return Tokens(place)
    except Exception as error:  # zipfile, zlib and numpy raise every kind
        raise UserError(f"{place}.npz: damaged; remove it and encode again ({error})") from error


@contextmanager
def writing(place: str) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """`add(tokens (n, f), counts (items,))` of the next items; `find` sees them once all were added."""
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    partial, counts, width = Path(f"{place}.partial"), [np.zeros(1, np.int64)], 0
    with partial.open("wb") as file:

        def add(tokens: np.ndarray, of: np.ndarray) -> None:
            nonlocal width
            width = tokens.shape[1]
            file.write(tokens.astype(np.float16).tobytes())
            counts.append(of)

        yield add
    partial.replace(f"{place}.tokens")
    with partial.open("wb") as file:
        np.savez(file, starts=np.cumsum(np.concatenate(counts)), width=width)
    partial.replace(f"{place}.npz")  # last: `find` looks for it
