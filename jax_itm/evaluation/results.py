"""A result on disk: its numbers as JSON, and in a second file the rank of every query."""

import io
import json
import zipfile
from typing import Any, NamedTuple

import numpy as np

from jax_itm.errors import UserError
from jax_itm.metrics import Ranks, intervals
from jax_itm.storage import as_path, replacing

QUERIES = "queries"  # the key of a result in memory; on disk it is the name of the file beside


class Queries(NamedTuple):
    """The rank of every query of a result.

    Attributes:
        ranks: of all images and captions, each within its fold.
        caption_image: int (captions,), the image of each caption.
    """

    ranks: Ranks
    caption_image: np.ndarray


class Stored(NamedTuple):
    """A result as `write` has left it.

    Attributes:
        path: of its JSON.
        protocol: how it was obtained.
        queries: its ranks.
    """

    path: str
    protocol: dict[str, Any]
    queries: Queries


def with_intervals(result: dict[str, Any]) -> dict[str, Any]:
    """A result with the 95 % interval of each recall and of rSum, for other queries: `intervals`."""
    if QUERIES not in result:
        return result
    queries: Queries = result[QUERIES]
    ends = intervals([queries.ranks], queries.caption_image)
    return result | {"intervals": {name: list(interval) for name, interval in ends.items()}}


def write(result: dict[str, Any], path: str) -> None:
    """Writes a result as JSON, and its ranks as NPZ of the same name; the JSON last, and completely."""
    out = as_path(path)
    kept = dict(result)
    if queries := kept.pop(QUERIES, None):
        beside = out.with_suffix(".npz")
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **queries.ranks._asdict(), caption_image=queries.caption_image)
        beside.write_bytes(buffer.getvalue())
        kept[QUERIES] = beside.name
    with replacing(out) as partial:
        partial.write_text(json.dumps(kept, indent=2) + "\n")


def read(path: str) -> Stored:
    """A result that `write` has written, with its ranks.

    Raises:
        UserError: there is none, it is damaged, or its ranks are missing.
    """
    file = as_path(path)
    if not file.exists():
        raise UserError(f"{path}: no such file; python -m jax_itm evaluate --out {path}")
    try:
        result = json.loads(file.read_text())
        protocol, beside = dict(result["protocol"]), file.parent / str(result.get(QUERIES, ""))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what jax_itm writes ({error})") from error
    if QUERIES not in result or not beside.exists():
        raise UserError(f"{path}: without the ranks of its queries; evaluate the run again with --out {path}")
    try:
        with np.load(io.BytesIO(beside.read_bytes()), allow_pickle=False) as arrays:
            queries = Queries(Ranks(arrays["i2t"], arrays["t2i"]), arrays["caption_image"])
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{beside}: damaged ({error})") from error
    return Stored(path, protocol, queries)
