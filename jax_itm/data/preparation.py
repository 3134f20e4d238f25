"""From raw files to a prepared data set."""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.constants import INCOMPLETE_PREFIX

from jax_itm.data.image_transforms import MAX_PIXELS
from jax_itm.data.prepared import VERSION, describe, open_prepared
from jax_itm.data.shard_preparation import DEFAULTS, ShardOptions, write_shards
from jax_itm.data.sources.entities import with_phrases
from jax_itm.data.sources.karpathy import PUBLISHED
from jax_itm.data.sources.raw import Raw
from jax_itm.data.sources.registry import DataSet, data_set
from jax_itm.data.tfds_builder import Builder
from jax_itm.errors import UserError
from jax_itm.lock import hold
from jax_itm.progress import track
from jax_itm.storage import local_path

LARGE_FILE = 2**20  # bytes
SAMPLES = 64  # of a large file, evenly spaced
SMALL_SAMPLES = 4  # of any other, such as a picture
SAMPLE_BYTES = 2**14


def prepare(
    name: str,
    data_dir: str | Path,
    source: str | Path | None = None,
    entities: str | Path | None = None,
    beam: dict[str, str] | None = None,
    max_pixels: int = MAX_PIXELS,
    shards: ShardOptions = DEFAULTS,
) -> dict[str, Any]:
    """Builds a data set in `data_dir`, either completely or not at all; an existing one is kept.

    Args:
        name: one of `DATA_SETS` in `sources/registry.py`, such as "scenes", which is generated.
        data_dir: the directory of the prepared data sets.
        source: the directory of the raw data or, except for "precomp", its file of captions.
        entities: a directory of Flickr30k Entities, whose phrases are added to the records (`with_phrases`).
        beam: the options of an Apache Beam pipeline that reads and writes the images; None to do so in this
            process.
        max_pixels: the number of pixels that a picture file may have; a larger one is refused before it is
            decoded.
        shards: how a set is prepared that is written in shards.

    Returns:
        What `describe` returns, and "reused": whether the set existed.

    Raises:
        UserError: the raw data are wrong (without `beam`, all of it is read before a byte is written, except
            for sets in shards), the set was prepared from another source or from this one as it was, or
            another process is preparing it.
    """
    known = data_set(name)
    options = {"source": source, "entities": entities}
    raw_files = _raw_files(name, known, options)
    path = local_path(data_dir, "--data_dir") / name / VERSION
    reused = path.exists()
    if reused:
        metadata = open_prepared(path).origin
        for option, location in raw_files.items():
            if location != metadata.get(option):
                raise UserError(
                    f"--{option} {options[option]}: {path} was prepared from"
                    f" {metadata.get(option) or 'none'}; choose another --data_dir (config.data.data_dir), or"
                    f" remove {path}"
                )
        _check_unchanged(name, known, raw_files, max_pixels, metadata, path)
    else:
        _check_raw_files(name, known, raw_files, options)
        if beam is not None:
            _check_beam(name, raw_files)
        raw = _read_raw(name, known, raw_files, beam is None, max_pixels, shards.columns)
        origin = {"source": None, **raw_files, "contents": contents(raw), "small_files": small_files(raw)}
        try:
            if raw.parts:
                origin["columns"] = json.dumps(shards.columns)
                _write_in_shards(path, raw, origin, shards, max_pixels)
            else:
                _write(name, raw, Path(data_dir), origin, beam)
        except OSError as error:
            raise UserError(f"--data_dir {data_dir}: cannot be written ({error})") from error
    return describe(name, data_dir) | {"reused": reused}


def contents(raw: Raw) -> str:
    """A digest of all captions, of the names and sizes of the files, and of samples of the large ones."""
    digest = hashlib.sha256(json.dumps(raw.captions, sort_keys=True).encode())
    for file in raw.files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        if size >= LARGE_FILE:
            _add_samples(digest, file, size, SAMPLES)
    return digest.hexdigest()[:16]


def small_files(raw: Raw) -> str:
    """A digest of samples of the files that `contents` knows by their sizes alone, such as pictures.

    A picture may be replaced by another of as many bytes: any BMP of the same shape is one. It is kept apart
    from `contents` because sets of before it are not checked by it. At most 64 KiB of a file are read.
    """
    digest = hashlib.sha256()
    for file in raw.files:
        size = file.stat().st_size
        if size < LARGE_FILE:
            _add_samples(digest, file, size, SMALL_SAMPLES)
    return digest.hexdigest()[:16]


def _add_samples(digest: "hashlib._Hash", file: Path, size: int, samples: int) -> None:
    """Adds some bytes of a file, from its first to its last, evenly spaced; all of a very small one."""
    with file.open("rb") as stream:
        for part in range(samples):
            stream.seek(part * max(size - SAMPLE_BYTES, 0) // (samples - 1))
            digest.update(stream.read(SAMPLE_BYTES))


def _check_unchanged(
    name: str, known: DataSet, raw_files: dict[str, str], max_pixels: int, origin: dict[str, Any], path: Path
) -> None:
    """Raises UserError if a source that is still there is not what a data set was prepared from."""
    prepared = origin.get("contents")
    if prepared is None or "source" not in raw_files:
        return
    is_there = Path(raw_files["source"]).exists()  # a name on a hub and a pattern are no paths
    if not is_there and not known.in_shards:
        return
    columns = tuple(map(tuple, json.loads(origin.get("columns") or "[]")))
    try:
        raw = _read_raw(name, known, raw_files, False, max_pixels, columns)
    except UserError:
        if is_there:
            raise
        return
    if contents(raw) != prepared or origin.get("small_files") not in (None, small_files(raw)):
        raise UserError(
            f"--source {raw_files['source']}: has changed since {path} was prepared from it; remove that to"
            " prepare it again, or choose another --data_dir"
        )


def _raw_files(name: str, known: DataSet, options: dict[str, str | Path | None]) -> dict[str, str]:
    """Where the raw files are, by the option that names them: the same in every working directory."""
    raw_files = {option: str(Path(path).resolve()) for option, path in options.items() if path}
    if known.source_name and options["source"]:
        raw_files["source"] = known.source_name(str(options["source"]))
    for option in raw_files if known.read_source is None else ():
        raise UserError(f"--{option} {options[option]}: {name} is generated, it takes no {option}")
    return raw_files


def _check_raw_files(
    name: str, known: DataSet, raw_files: dict[str, str], options: dict[str, str | Path | None]
) -> None:
    if known.read_alone is None and "source" not in raw_files:
        steps = f": {PUBLISHED[name].steps}; then --source DIR" if name in PUBLISHED else ""
        raise UserError(f"--source: {name} is made from raw files; name their directory{steps}")
    if known.in_shards and "entities" in raw_files:
        raise UserError(f"--entities: not of a set in shards such as {name}")
    for option, location in raw_files.items():
        if not (option == "source" and known.source_name) and not Path(location).exists():
            raise UserError(f"--{option} {options[option]}: no such file or directory")


def _check_beam(name: str, raw_files: dict[str, str]) -> None:
    if data_set(name).in_shards:
        raise UserError(f"--beam: {name} is written by --readers N processes instead")
    if "source" not in raw_files or "entities" in raw_files:
        raise UserError(f"--beam: reads only raw files; prepare {name} without it, or with --source alone")
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError("--beam: needs the package apache-beam: pip install -e .[beam]")


def _read_raw(
    name: str,
    known: DataSet,
    raw_files: dict[str, str],
    checked: bool,
    max_pixels: int,
    columns: tuple[tuple[str, str], ...],
) -> Raw:
    """The raw data; if `checked`, all of it is read once, except for sets in shards."""
    limit: dict[str, Any] = {"max_pixels": max_pixels} if known.is_of_pictures else {}
    if known.in_shards:
        limit["columns"] = columns
    elif columns:
        raise UserError(f"--columns: {name} has none to choose; only huggingface and webdataset have")
    try:
        if known.read_source and "source" in raw_files:
            raw = known.read_source(Path(raw_files["source"]), **limit)
        else:
            assert known.read_alone  # `_check_raw_files` has asked for a source otherwise
            raw = known.read_alone(**limit)
        if "entities" in raw_files:
            raw = with_phrases(raw, Path(raw_files["entities"]))
        if known.read_source and checked and not raw.parts:
            for split, read in raw.splits.items():
                for _ in track(read(), len(raw.captions.get(split, ())), f"checking {split}"):
                    pass  # reading a record checks it
    except OSError as error:
        raise UserError(f"{error.filename or name}: cannot be read ({error.strerror})") from error
    return raw


def _write(
    name: str, raw: Raw, data_dir: Path, origin: dict[str, str | None], beam: dict[str, str] | None
) -> None:
    """Builds a data set in `data_dir`.

    Args:
        name: the data set.
        raw: its records.
        data_dir: the directory of the prepared data sets.
        origin: where the records come from; kept in the metadata.
        beam: the options of an Apache Beam pipeline that writes it (see `beam.py`); None: this process does.

    Raises:
        OSError: it cannot be written; nothing remains of it.
        UserError: another process is writing it, or a pipeline failed.
    """
    tfds.disable_progress_bar()
    # TFDS makes a directory for downloads and prints messages about them: there are none.
    with (
        _exclusive(data_dir / name),
        tempfile.TemporaryDirectory() as downloads,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        if beam is None:
            Builder(name, raw, data_dir, VERSION, origin).download_and_prepare(download_dir=downloads)
        else:
            from jax_itm.data.beam import BeamBuilder, download_config, one_line_errors

            builder = BeamBuilder(name, raw, data_dir, VERSION, origin)
            with one_line_errors():
                builder.download_and_prepare(download_dir=downloads, download_config=download_config(beam))


def _write_in_shards(
    path: Path, raw: Raw, origin: dict[str, str | None], shards: ShardOptions, max_pixels: int
) -> None:
    """As `_write`, of a set that is written in shards; what is finished stays for the next call."""
    is_new = not path.parents[1].exists()
    try:
        with _exclusive(path.parent):
            write_shards(path, raw, origin, shards, max_pixels)
    except UserError:
        with contextlib.suppress(OSError):  # what is not empty stays
            path.parent.rmdir()
            if is_new:
                path.parents[1].rmdir()
        raise


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Creates a data set's folder and keeps other processes from building in it.

    TFDS builds in `incomplete.*` and renames that when everything is written. What a killed process left
    there is removed: its lock ended with it, so whoever holds the lock knows that nobody else is writing. On
    a file system without locks it is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            is_locked = hold(handle)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another process is preparing it; wait until it ends") from error
        with contextlib.suppress(OSError):  # what cannot be removed stays
            for incomplete in folder.glob(f"{INCOMPLETE_PREFIX}*") if is_locked else ():
                shutil.rmtree(incomplete)
        yield
    finally:
        os.close(handle)
