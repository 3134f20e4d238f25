"""Prepares a large set as shards, from its raw files, in several processes.

A raw file is the unit of the work: it becomes shards of its own, so that a preparation that was stopped goes
on with the files that it had not finished. Memory does not grow with the set but by what `grouping.py` says,
and by the list of shards.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from jax_itm.data.grouping import merges
from jax_itm.data.image_transforms import MAX_PIXELS
from jax_itm.data.shard_writer import Checks, Job, finished, write_part
from jax_itm.data.shards import INDEX
from jax_itm.data.sources.captions import MIN_SHARED, VALIDATION_SHARE
from jax_itm.data.sources.raw import Raw
from jax_itm.errors import UserError
from jax_itm.progress import track

UNFINISHED = "unfinished."
PLAN = "plan.json"
BAD = "bad.txt"
LISTED = 3  # bad rows that an error quotes
VALIDATION = 5000  # images of a `val` that is taken from train: all of them are scored with each other


class ShardOptions(NamedTuple):
    """How a large set is prepared.

    Attributes:
        columns: which column (or JSON field) is what, where its name and type do not say: "image", "caption",
            "split", "key", "name".
        group: one of `grouping.GROUPINGS`.
        max_bad: the share of the rows that may be bad; these are left out and listed.
        readers: processes that read and write; 1 is this one.
        decode: whether every picture is decoded, too.
    """

    columns: tuple[tuple[str, str], ...] = ()
    group: str = "key"
    max_bad: float = 0.01
    readers: int = 1
    decode: bool = False


DEFAULTS = ShardOptions()


def write_shards(
    path: Path, raw: Raw, origin: dict[str, str | None], options: ShardOptions, max_pixels: int = MAX_PIXELS
) -> None:
    """Writes a set in shards at `path`, which appears when everything is written.

    Until then the finished raw files lie beside it, and are not read again by a later call with the same raw
    files and options.

    Args:
        path: of the set; nothing is there yet, and no other process is writing it.
        raw: the set; its `parts` are read.
        origin: where it comes from, and the digest of its contents; kept in the index.
        options: how.
        max_pixels: the number of pixels that a picture may have.

    Raises:
        UserError: more rows are bad than `max_bad` allows, no row is left, or a raw file is damaged.
        OSError: a file cannot be written.
    """
    folder = path.with_name(UNFINISHED + path.name)
    _start_or_resume(folder, raw, origin, options, max_pixels)
    try:
        parts = raw.parts
        checks = Checks(max_pixels, options.decode)
        share = _validation_share(raw)
        jobs = [
            Job(part, number, folder, checks, merge, share)
            for number, (part, merge) in enumerate(zip(parts, merges(parts, options.group), strict=True))
        ]
        _run([job for job in jobs if not job.done.exists()], options.readers)
        index = _summary(list(finished(jobs)), folder, options.max_bad)
    except BaseException:
        if not any(folder.glob("*.done.json")):  # there is nothing to go on with
            shutil.rmtree(folder, ignore_errors=True)
        raise
    notes = list(raw.notes)
    if share and "val" in index["splits"]:
        notes.append(f"val: {share:.2%} of the images of train, by a digest of their names")
    tally = dict(raw.tally) | index["tally"]
    index |= {"kind": raw.kind, "notes": notes, "tally": tally, "origin": origin}
    (folder / INDEX).write_text(json.dumps(index))
    for job in jobs:
        job.done.unlink()
    (folder / PLAN).unlink()
    os.replace(folder, path)


def _start_or_resume(
    folder: Path, raw: Raw, origin: dict[str, str | None], options: ShardOptions, max_pixels: int
) -> None:
    """Makes the folder, or keeps it where it was made for the same raw files and options."""
    how = options._replace(max_bad=0.0, readers=0)  # these change nothing that is written
    text = repr((origin, how, max_pixels, [str(part.file) for part in raw.parts]))
    plan = json.dumps({"digest": hashlib.sha256(text.encode()).hexdigest()})
    if folder.exists():
        file = folder / PLAN
        if file.exists() and file.read_text() == plan:
            return
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / PLAN).write_text(plan)


def _validation_share(raw: Raw) -> float:
    """The share of train that becomes `val`; 0 where the set has other splits, or is too small."""
    rows = raw.parts[0].count() * len(raw.parts)  # files are taken to be like the first
    if set(raw.splits) != {"train"} or rows < MIN_SHARED:
        return 0.0
    return min(VALIDATION_SHARE, VALIDATION / rows)


def _run(jobs: Sequence[Job], readers: int) -> None:
    """Writes the raw files, each in one of `readers` processes."""
    total = len(jobs)
    label = "writing shards"
    if readers == 1:
        for _ in track(map(write_part, jobs), total, label):
            pass
        return
    context = multiprocessing.get_context("spawn")  # TensorFlow's threads do not survive a fork
    with ProcessPoolExecutor(readers, mp_context=context) as pool:
        try:
            for _ in track(_completed(pool, jobs, readers), total, label):
                pass
        except BrokenProcessPool as error:
            raise UserError(
                f"--readers {readers}: a reader ended; the system may have killed it for its memory"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _completed(pool: ProcessPoolExecutor, jobs: Sequence[Job], readers: int) -> Iterator[None]:
    """Submits a few jobs at a time: a job carries the captions that are merged into it."""
    waiting = iter(jobs)
    running = set()
    while True:
        for job in waiting:
            running.add(pool.submit(write_part, job))
            if len(running) >= 2 * readers:
                break
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def _summary(parts: list[dict[str, Any]], folder: Path, max_bad: float) -> dict[str, Any]:
    """The index of a set, from what its raw files held; UserError where too much of it is bad."""
    rows = sum(part["rows"] for part in parts)
    bad = [line for part in parts for line in part["bad"]]
    if bad:
        (folder / BAD).write_text("\n".join(bad) + "\n")
    quoted = "; ".join(bad[:LISTED])
    if len(bad) > max_bad * rows:
        raise UserError(
            f"{len(bad):,} of {rows:,} rows are bad, more than --max_bad {max_bad:g} allows ({quoted});"
            f" {folder / BAD} lists them; with a larger --max_bad the same command leaves them out"
        )
    splits: dict[str, Any] = {}
    for part in parts:
        for name, found in part["splits"].items():
            split = splits.setdefault(name, {"shards": [], "spreads": {}})
            split["shards"] += found["shards"]
            for what, counts in found["spreads"].items():
                total = split["spreads"].setdefault(what, Counter())
                for value, count in counts:
                    total[value] += count
    if not splits:
        raise UserError(f"no picture with a caption among {rows:,} rows ({quoted or 'the files are empty'})")
    for split in splits.values():
        split["spreads"] = {what: spread(counts) for what, counts in split["spreads"].items()}
    order = [name for name in ("train", "val", "test") if name in splits]
    splits = {name: splits[name] for name in [*order, *sorted(splits.keys() - set(order))]}
    tally = {f"bad rows left out ({BAD})": len(bad)} if bad else {}
    return {"splits": splits, "tally": tally}


def spread(counts: Counter[int]) -> list[int]:
    """The minimum, the median and the maximum of numbers of which each occurs so often."""
    middle = sum(counts.values()) // 2
    seen = 0
    ordered = sorted(counts.items())
    for value, count in ordered:
        seen += count
        if seen > middle:
            return [ordered[0][0], value, ordered[-1][0]]
    raise ValueError("no numbers")
