"""Writing a data set with TFDS: all of it or nothing."""

import contextlib
import fcntl
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.constants import INCOMPLETE_PREFIX

from jax_itm.data.readers import Raw, Record
from jax_itm.types import UserError


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


class _Writer(tfds.core.ExampleWriter):
    """ArrayRecord without compression: features hardly shrink, and reading is four times faster."""

    def write(self, path, examples) -> None:
        writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for _, example in examples:
            writer.write(example)
        writer.close()


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One builder for all sets: what differs between them is in `Raw`."""

    url_infos = None  # nothing is downloaded; TFDS's own looks for a file of checksums

    def __init__(self, name: str, raw: Raw, data_dir: Path, version: str, facts: dict[str, Any]):
        self.VERSION = tfds.core.Version(version)
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]: TFDS's AdhocBuilder does so
        self._raw = raw
        self._metadata = tfds.core.MetadataDict(
            **facts,
            region_dim=raw.region_dim,
            captions={split: [] for split in raw.splits},
            max_regions=dict.fromkeys(raw.splits, 0),
            kind=raw.kind,
            notes=list(raw.notes),
            tally=dict(raw.tally),  # as they are now, after one reading
            sizes={},
        )
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        f, int64 = tfds.features, np.int64
        tensor = partial(f.Tensor, encoding="bytes")
        optional = {
            "image": f.Image(shape=(None, None, 3)),
            "regions": tensor(shape=(None, self._raw.region_dim), dtype=np.float16),
            "boxes": tensor(shape=(None, 4), dtype=np.float32),
            "phrases": f.Sequence({key: int64 for key in ("caption", "start", "end", "box")}),
        }
        features = {
            "image_id": int64,
            "name": f.Text(),
            "captions": f.Sequence(f.Text()),
            "caption_ids": f.Sequence(int64),
            **{key: optional[key] for key in self._raw.holds},
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=f.FeaturesDict(features),
            metadata=self._metadata,
            disable_shuffling=True,
        )

    def _example_writer(self) -> _Writer:
        return _Writer(file_format=tfds.core.FileFormat.ARRAY_RECORD)

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._raw.splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, Record]]:
        captions, count, sizes = self._metadata["captions"][split], 0, []
        for image_id, record in enumerate(self._raw.splits[split]()):
            example = numbered(record, image_id, count)
            captions.append(list(record["captions"]))
            count += len(record["captions"])
            sizes.append(measured(example))
            yield image_id, example
        self.keep_sizes(split, sizes)

    def keep_sizes(self, split: str, sizes: Sequence[dict[str, int]]) -> None:
        """Puts into the metadata what `measured` gave of all images of a split."""
        found = {key: spread([of[key] for of in sizes]) for key in sizes[0]}
        self._metadata["sizes"][split] = found
        self._metadata["max_regions"][split] = found.get("regions", [0])[-1]


def numbered(record: Record, image_id: int, first: int) -> Record:
    """A record as it is written: with its number, its captions' from `first` on, and an encoded image."""
    example = record | {"image_id": image_id}
    example["caption_ids"] = list(range(first, first + len(record["captions"])))
    if "image" in record:
        example["image"] = _encoded(record["image"])
    return example


def measured(example: Record) -> dict[str, int]:
    """Width and height of its picture in pixels, the number of its regions."""
    sizes = {"regions": len(example["regions"])} if "regions" in example else {}
    if "image" in example:
        with Image.open(io.BytesIO(example["image"])) as picture:
            sizes |= {"width": picture.width, "height": picture.height}
    return sizes


def spread(values: Sequence[int]) -> list[int]:
    """The least, the middle and the largest of some numbers."""
    ordered = sorted(values)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _encoded(image: bytes | np.ndarray) -> bytes:
    if isinstance(image, bytes):
        return image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
