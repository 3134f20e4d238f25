"""Approximate and exact search among many made vectors: time, memory, recall.

    python tests/benchmarks/search_many.py FOLDER [--pictures 1000000] [--dim 128]

The vectors are unit vectors around 10,000 centres, written into an index as `index` would write them, but for
thumbnails; queries are others around the same centres. Prints one line a stage.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from jax_itm.search.approximate import build_approximate, open_approximate, recall
from jax_itm.search.encodings import Items
from jax_itm.search.nearest import ExactNearest
from jax_itm.search.store import Picture, Stamp, Store

CENTRES = 10_000
SPREAD = 1.0  # length of the noise, where a centre has length 1
BATCH = 10_000
NEAREST = 10


def made_vectors(count: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors (count, dim) around common centres."""
    centres = np.random.default_rng(0).normal(size=(CENTRES, dim)).astype(np.float32)
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, dim)).astype(np.float32)
    vectors = centres[rng.integers(CENTRES, size=count)] + SPREAD * noise
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(store: Store, pictures: int, dim: int) -> None:
    store.set_facts(dim=str(dim), revision="1")
    for start in range(0, pictures, BATCH):
        count = min(BATCH, pictures - start)
        rows = [Picture(f"{start + k:09d}.jpg", Stamp(0, 0, 0), 1, 1, b"", b"") for k in range(count)]
        store.add_pictures(rows, Items(made_vectors(count, dim, seed=1 + start), None))


def say(stage: str, seconds: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**30
    print(f"{stage:45s} {seconds:9.3f} s   memory {now:5.2f} GiB, at most {peak:5.2f} GiB", flush=True)


def times(search, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of each query alone, and the ids that were found."""
    found = []
    milliseconds = []
    for query in queries:
        start = time.perf_counter()
        found.append(search.search(query[None], NEAREST).ids[0])
        milliseconds.append(1000 * (time.perf_counter() - start))
    return np.array(milliseconds), np.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=200)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    store = Store(args.folder, create=True)
    start = time.perf_counter()
    if store.count("picture") == 0:
        write(store, args.pictures, args.dim)
        say(f"writing {args.pictures:,} pictures", time.perf_counter() - start)
    start = time.perf_counter()
    open_approximate(store) if store.fact("approximate") else print(build_approximate(store))
    say("building, with the choice of probes", time.perf_counter() - start)
    start = time.perf_counter()
    near = open_approximate(store)
    say("opening the approximate search", time.perf_counter() - start)
    queries = made_vectors(args.queries, args.dim, seed=-1 % 2**32)
    approximate, found = times(near, queries)
    say("approximate: median of a query", np.median(approximate) / 1000)
    say("approximate: 99th percentile", np.percentile(approximate, 99) / 1000)
    start = time.perf_counter()
    exact = ExactNearest(*store.vectors("picture"))
    say("reading all vectors for an exact search", time.perf_counter() - start)
    milliseconds, nearest = times(exact, queries)
    say("exact: median of a query", np.median(milliseconds) / 1000)
    say("exact: 99th percentile", np.percentile(milliseconds, 99) / 1000)
    print(f"recall of the {NEAREST} nearest, {args.queries} new queries: {recall(found, nearest):.4f}")


if __name__ == "__main__":
    main()
