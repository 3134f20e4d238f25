"""From raw files to a prepared data set."""

import contextlib
import fcntl
import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.constants import INCOMPLETE_PREFIX

from jax_itm.data.images import MAX_PIXELS
from jax_itm.data.prepared import VERSION, _check_name, _open, describe
from jax_itm.data.sources.entities import with_phrases
from jax_itm.data.sources.karpathy import PUBLISHED
from jax_itm.data.sources.raw import Raw
from jax_itm.data.sources.registry import OF_PICTURES, READERS, WITHOUT_SOURCE
from jax_itm.data.tfds_builder import Builder
from jax_itm.errors import UserError
from jax_itm.storage import local_path


def prepare(
    name: str,
    data_dir: str | Path,
    source: str | Path | None = None,
    entities: str | Path | None = None,
    beam: dict[str, str] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, Any]:
    """Builds a data set into `data_dir`, all of it or nothing; one that is there is kept.

    Args:
        name: "scenes" (generated), "flickr8k", "flickr30k" or "coco" (as they are handed out), "folder"
            (pictures and captions), "precomp" (SCAN's layout), "uniter" or "bottom_up_tsv" (their features).
        data_dir: where the prepared data sets lie.
        source: the directory of the raw data or, but for "precomp", its file of captions.
        entities: a directory of Flickr30k Entities, whose phrases the records get (`with_phrases`).
        beam: options of an Apache Beam pipeline that is to read and write the images; None: this process.
        max_pixels: the most that a picture file may have; a larger one is refused before it is decoded.

    Returns:
        What `describe` does, and "reused": whether it was there.

    Raises:
        UserError: the raw data are wrong (all are read before a byte is written, but with `beam`), the
            set was prepared from another source, or another process is preparing it.
    """
    _check_name(name)
    given = {"source": source, "entities": entities}
    places = {option: str(Path(where).resolve()) for option, where in given.items() if where}
    for option in places if name not in READERS else ():
        raise UserError(f"--{option} {given[option]}: {name} is generated, it takes no {option}")
    path = local_path(data_dir, "--data_dir") / name / VERSION
    reused = path.exists()
    if reused:
        known = _open(path).info.metadata
        for option, where in places.items():
            if where != known.get(option):
                raise UserError(
                    f"--{option} {given[option]}: {path} was prepared from {known.get(option) or 'none'};"
                    " take another --data_dir or remove it"
                )
    else:
        if name not in WITHOUT_SOURCE and not source:
            steps = f": {PUBLISHED[name].steps}; then --source DIR" if name in PUBLISHED else ""
            raise UserError(f"--source: {name} is made from raw files; name their directory{steps}")
        for option, where in places.items():
            if not Path(where).exists():
                raise UserError(f"--{option} {given[option]}: no such file or directory")
        options = {"max_pixels": max_pixels} if name in OF_PICTURES else {}
        _build(name, Path(data_dir), places, beam, options)
    return describe(name, data_dir) | {"reused": reused}


def _build(
    name: str, data_dir: Path, places: dict[str, str], beam: dict[str, str] | None, options: dict[str, int]
) -> None:
    if beam is not None:
        _check_beam(name, places)
    try:
        source = (Path(places["source"]),) if "source" in places else ()
        raw = (READERS if source else WITHOUT_SOURCE)[name](*source, **options)
        if "entities" in places:
            raw = with_phrases(raw, Path(places["entities"]))
        if name != "scenes" and beam is None:
            for read in raw.splits.values():
                for _ in read():  # checks every record
                    pass
    except OSError as error:
        raise UserError(f"{error.filename or name}: cannot be read ({error.strerror})") from error
    try:
        write(name, raw, data_dir, VERSION, {"source": None, **places}, beam)
    except OSError as error:
        raise UserError(f"--data_dir {data_dir}: cannot be written ({error})") from error


def _check_beam(name: str, places: dict[str, str]) -> None:
    if "source" not in places or "entities" in places:
        raise UserError(f"--beam: reads raw files alone; prepare {name} without it, or with --source alone")
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError("--beam: needs the package apache-beam: pip install -e .[beam]")


def write(
    name: str,
    raw: Raw,
    data_dir: Path,
    version: str,
    facts: dict[str, Any],
    beam: dict[str, str] | None = None,
) -> None:
    """Builds a data set in `data_dir`.

    Args:
        name: of the data set.
        raw: its records.
        data_dir: where prepared data sets lie.
        version: of the layout.
        facts: kept in its metadata, beside what `raw` tells.
        beam: options of an Apache Beam pipeline that is to write it (see `beam.py`); None: this process.

    Raises:
        OSError: it cannot be written; nothing is left.
        UserError: another process is writing it, or a pipeline failed.
    """
    tfds.disable_progress_bar()
    # TFDS speaks of downloads, and makes a directory for them: there are none.
    with (
        _alone(data_dir / name),
        tempfile.TemporaryDirectory() as nothing,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        if beam is None:
            Builder(name, raw, data_dir, version, facts).download_and_prepare(download_dir=nothing)
        else:
            from jax_itm.data.beam import BeamBuilder, download_config, one_line

            builder, config = BeamBuilder(name, raw, data_dir, version, facts), download_config(beam)
            with one_line():
                builder.download_and_prepare(download_dir=nothing, download_config=config)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Makes a data set's folder and keeps other processes from building in it.

    TFDS builds in `incomplete.*` and renames that when all is written. What a process that was killed
    left there is removed: the lock, which ends with its process, tells that nobody is writing it. Where
    the file system knows no locks, it stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # no locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{folder}: another process is preparing it; wait for that") from error
            for left in folder.glob(f"{INCOMPLETE_PREFIX}*"):
                shutil.rmtree(left)
        yield
    finally:
        os.close(handle)
