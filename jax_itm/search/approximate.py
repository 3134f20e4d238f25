"""Approximate search in many pictures, by FAISS: an inverted file, rebuilt together with the index."""

import importlib
import importlib.util
import json
import math
import os
from typing import Any, NamedTuple

import numpy as np

from jax_itm.errors import UserError
from jax_itm.search.nearest import ExactNearest, Neighbours
from jax_itm.search.store import Store
from jax_itm.storage import replacing

EXACT_UP_TO = 100_000  # pictures; beyond, comparing a query with all of them takes too long
FILE = "nearest.faiss"
FACT = "approximate"

GOAL = 0.95  # recall of the nearest that decides how much is searched
NEAREST = 10
QUERIES = 200
TRAINING = 40  # vectors a list, of which its centre is learnt
ROUNDS = 10  # of k-means
SEED = 0


class Quality(NamedTuple):
    """How well the approximate search of an index does.

    Attributes:
        revision: of the index that it was built for.
        lists: into which the vectors are divided.
        probes: lists that a query searches.
        recall: the share of the 10 nearest, by exact search, that it finds.
        queries: over which the recall was taken.
        of: what these were: "captions" or "pictures" of the index.
    """

    revision: str
    lists: int
    probes: int
    recall: float
    queries: int
    of: str


class ApproximateNearest:
    """The nearest pictures by an index of FAISS; see `nearest.Nearest`.

    Args:
        index: FAISS's, which a query's lists are read from.
        probes: lists that a query searches.
    """

    def __init__(self, index: Any, probes: int):
        self.index = index
        self.index.nprobe = probes

    def search(self, queries: np.ndarray, k: int) -> Neighbours:
        """See `Nearest`. Where a query's lists have fewer than `k` items, the ids that are missing are -1."""
        scores, ids = self.index.search(np.ascontiguousarray(queries, np.float32), min(k, self.index.ntotal))
        return Neighbours(ids, scores)


def check_installed(pictures: int) -> None:
    """Raises UserError where so many pictures need FAISS and it is not there."""
    if pictures > EXACT_UP_TO and importlib.util.find_spec("faiss") is None:
        raise UserError(
            f"more than {EXACT_UP_TO:,} pictures are searched by the package faiss-cpu:"
            " pip install -e .[search]"
        )


def build_approximate(store: Store) -> Quality | None:
    """Builds the approximate search of an index that is too large for an exact one, unless it is up to date.

    Returns:
        How well it does; none where the index is small enough.
    """
    path = store.folder / FILE
    if store.count("picture") <= EXACT_UP_TO:
        path.unlink(missing_ok=True)
        return None
    quality = quality_of(store)
    if quality and quality.revision == store.fact("revision") and path.exists():
        return quality
    ids, vectors = store.vectors("picture")
    index = divided(ids, vectors)
    quality = _with_probes(index, store, ExactNearest(ids, vectors))
    with replacing(path) as partial:
        _faiss().write_index(index, os.fspath(partial))
    store.set_facts(**{FACT: json.dumps(quality._asdict())})
    return quality


def open_approximate(store: Store) -> ApproximateNearest:
    """The approximate search of an index; its vectors stay on disk until a query needs them.

    Raises:
        UserError: it was not built for the index as it is, it is damaged, or FAISS is not installed.
    """
    check_installed(store.count("picture"))
    path = store.folder / FILE
    quality = quality_of(store)
    if quality is None or quality.revision != store.fact("revision") or not path.is_file():
        raise UserError(f"{store.folder}: unfinished; run `python -m jax_itm index` to its end")
    faiss = _faiss()
    try:
        index = faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        raise UserError(f"{path}: damaged; remove it and run `index` again") from error
    return ApproximateNearest(index, quality.probes)


def quality_of(store: Store) -> Quality | None:
    """What is known of the approximate search of an index; none where there is none."""
    text = store.fact(FACT)
    return Quality(**json.loads(text)) if text else None


def divided(ids: np.ndarray, vectors: np.ndarray) -> Any:
    """FAISS's index of vectors (n, d), divided into lists around centres that k-means finds in a sample."""
    faiss = _faiss()
    count, dim = vectors.shape
    lists = max(1, round(4 * math.sqrt(count)))
    rows = np.random.default_rng(SEED).permutation(count)[: TRAINING * lists]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = ROUNDS
    index.cp.seed = SEED + 1
    index.train(vectors[np.sort(rows)])
    index.add_with_ids(vectors, ids)
    return index


def recall(found: np.ndarray, nearest: np.ndarray) -> float:
    """The share of ids (q, k) of the nearest that were found."""
    rows = zip(found.tolist(), nearest.tolist(), strict=True)
    return sum(len(set(own) & set(best)) for own, best in rows) / nearest.size


def _with_probes(index: Any, store: Store, exact: ExactNearest) -> Quality:
    """Searches ever more lists for a query, until the recall reaches the goal."""
    of = "captions" if store.count("caption") else "pictures"
    candidates = store.vectors("caption")[1] if of == "captions" else exact.vectors
    rows = np.random.default_rng(SEED).permutation(len(candidates))[:QUERIES]
    queries = candidates[rows]
    nearest = exact.search(queries, NEAREST).ids
    probes = 1
    while True:
        share = recall(ApproximateNearest(index, probes).search(queries, NEAREST).ids, nearest)
        if share >= GOAL or probes >= index.nlist:
            return Quality(store.fact("revision"), index.nlist, probes, share, len(rows), of)
        probes = min(2 * probes, index.nlist)


def _faiss() -> Any:
    return importlib.import_module("faiss")
