"""Builds an index and updates it: encodes new pictures, and removes those that are gone."""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_itm.data.image_transforms import image_transform_of
from jax_itm.errors import UserError
from jax_itm.inference.matcher import Matcher, load
from jax_itm.lock import locked
from jax_itm.progress import track
from jax_itm.search.approximate import Quality, build_approximate, check_installed
from jax_itm.search.encodings import check_searchable, fingerprint, to_items
from jax_itm.search.files import ReadFile, digest_of, read_file, read_texts, scan
from jax_itm.search.store import FILE, Stamp, Store

READERS = min(4, os.cpu_count() or 1)  # threads; Pillow decodes outside Python's lock


class Changes(NamedTuple):
    """What an update did.

    Attributes:
        added: pictures that were encoded, changed ones among them.
        removed: pictures whose file is gone or has changed.
        kept: pictures that stayed as they were.
        captions: captions of the index.
        unreadable: why each file that is left out cannot be read.
        step: of the run, whose parameters encoded all of it.
        approximate: how well its approximate search does; none where search is exact.
    """

    added: int
    removed: int
    kept: int
    captions: int
    unreadable: list[str]
    step: int
    approximate: Quality | None = None


def make_index(
    folder: Path, workdir: str, images: Path, captions: Path | None = None, score: str = ""
) -> Changes:
    """Makes an index of a folder's pictures, or brings one up to date.

    An index stays with the step and the score of the run that it was made by. Its captions stay as they are
    where no file of captions is given.

    Args:
        folder: of the index.
        workdir: of the run that encodes.
        images: the folder of pictures.
        captions: a file of captions to find for pictures (`read_texts`).
        score: of a new index: another score than the run's.

    Raises:
        UserError: there is nothing to index, the run cannot search, or the index is of another run or folder.
    """
    images = images.absolute()
    stamps = scan(images)
    check_installed(len(stamps))
    texts = read_texts(captions) if captions else None
    is_new = not (folder / FILE).exists()
    with locked(str(folder), "index"):
        store = Store(folder, create=True)
        try:
            step = store.fact("step")
            matcher = load(workdir, step=int(step) if step else None, score=score or store.fact("score"))
            check_searchable(matcher, f"--workdir {workdir}")
            _claim(store, matcher, workdir, images)
            changes = _update(store, matcher, images, stamps)
            if texts is not None:
                _update_captions(store, matcher, texts)
            quality = build_approximate(store)
            store.set_facts(complete="1")
            return changes._replace(captions=store.count("caption"), approximate=quality)
        except UserError:
            if is_new and not store.count("picture"):  # nothing half-written
                (folder / FILE).unlink()
            raise
        finally:
            store.close()


def _claim(store: Store, matcher: Matcher, workdir: str, images: Path) -> None:
    """Notes in a new index what it is of; UserError where an existing one is of something else."""
    digest = fingerprint(matcher)
    if not store.fact("fingerprint"):
        where = {"workdir": os.path.abspath(workdir) if "://" not in workdir else workdir}
        store.set_facts(
            fingerprint=digest,
            step=str(matcher.step),
            images=str(images),
            score=matcher.method.score_name,
            **where,
        )
    if store.fact("images") != str(images):
        raise UserError(
            f"--out {store.folder}: an index of the pictures in {store.fact('images')}; give another --out"
        )
    if store.fact("fingerprint") != digest:
        raise UserError(
            f"--out {store.folder}: an index by another run or score than {workdir}; give another --out"
        )


def _update(store: Store, matcher: Matcher, images: Path, stamps: Mapping[str, Stamp]) -> Changes:
    """Encodes what is new or changed, and removes what is gone or changed."""
    before = store.stamps()
    same = _same_contents(store, images, before, stamps)
    store.restamp(same)
    before |= same
    failed = {name: stamp for name, (stamp, _) in store.unreadable().items()}
    gone = [name for name, stamp in before.items() if stamps.get(name) != stamp]
    new = {n: s for n, s in stamps.items() if before.get(n) != s and failed.get(n) != s}
    if gone or new:
        revision = int(store.fact("revision") or 0) + 1
        store.set_facts(complete="0", revision=str(revision))
    store.remove("pictures", gone)
    store.remove("unreadable", [name for name, stamp in failed.items() if stamps.get(name) != stamp])
    added = 0
    files = track(_read_files(images, new, matcher), len(new), "indexing pictures")
    while batch := list(islice(files, matcher.batch_size)):
        added += _add(store, matcher, batch)
    unreadable = [reason for _, reason in store.unreadable().values()]
    if not store.count("picture"):
        raise UserError(unreadable[0])
    return Changes(added, len(gone), len(before) - len(gone), 0, unreadable, matcher.step)


def _same_contents(
    store: Store, images: Path, before: Mapping[str, Stamp], stamps: Mapping[str, Stamp]
) -> dict[str, Stamp]:
    """The new stamps of files that were touched, copied or given other rights, but hold what they held."""
    differ = {name: stamps[name] for name, stamp in before.items() if stamps.get(name, stamp) != stamp}
    names = [name for name, stamp in differ.items() if stamp.size == before[name].size]
    if not names:
        return {}
    digests = store.digests()
    with ThreadPoolExecutor(READERS) as pool:
        now = track(pool.map(lambda name: digest_of(images / name), names), len(names), "comparing pictures")
        return {
            name: differ[name] for name, digest in zip(names, now, strict=True) if digest == digests[name]
        }


def _read_files(images: Path, stamps: Mapping[str, Stamp], matcher: Matcher) -> Iterator[ReadFile]:
    """The files in turn, read by a few threads: no more than a few pictures are held at their full size."""
    transform = image_transform_of(matcher.config, matcher.facts)
    waiting: deque[Future[ReadFile]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for name, stamp in stamps.items():
            waiting.append(pool.submit(read_file, images, name, stamp, transform))
            if len(waiting) > 2 * READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _add(store: Store, matcher: Matcher, batch: list[ReadFile]) -> int:
    """Adds a batch in one transaction; how many of its files are pictures."""
    store.add_unreadable((file.name, file.stamp, file.reason) for file in batch if file.picture is None)
    pictures = [file.picture for file in batch if file.picture is not None]
    pixels = [file.pixels for file in batch if file.pixels is not None]
    if pictures:
        items = to_items(matcher.encode_pixels(np.stack(pixels)))
        if not store.fact("dim"):
            store.set_facts(dim=str(items.vectors.shape[1]))
        store.add_pictures(pictures, items)
    return len(pictures)


def _update_captions(store: Store, matcher: Matcher, texts: list[str]) -> None:
    """Brings the captions of an index to these."""
    before = store.captions()
    wanted = set(texts)
    store.remove("captions", [text for text in before if text not in wanted])
    known = set(before)
    new = [text for text in texts if text not in known]
    starts = range(0, len(new), matcher.batch_size)
    for start in track(starts, len(starts), "indexing batches of captions"):
        batch = new[start : start + matcher.batch_size]
        store.add_captions(batch, to_items(matcher.encode_texts(batch)))
