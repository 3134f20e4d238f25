"""Writes one raw file as shards: the unit of work of a process that prepares a large set."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python.array_record_module import ArrayRecordWriter

from jax_itm.data.images import read_picture
from jax_itm.data.picture_headers import picture_size
from jax_itm.data.shards import CAPTIONS, RECORDS, Shard
from jax_itm.data.sources.parts import BadRow, Part, Row
from jax_itm.errors import UserError
from jax_itm.storage import replacing

IMAGES_A_SHARD = 4096
BYTES_A_SHARD = 2**29  # of pictures; a shard ends at whichever comes first


class Checks(NamedTuple):
    """How a picture is checked before it is written.

    Attributes:
        max_pixels: the number of pixels that it may have.
        decode: whether it is decoded, too: slower by a factor of five to ten, and nothing slips through.
    """

    max_pixels: int
    decode: bool = False


class Merge(NamedTuple):
    """What becomes of a raw file's rows that show the same picture.

    Attributes:
        captions: by the number of a row, the captions of later rows that show its picture.
        skipped: the numbers of the rows whose captions are with an earlier one.
    """

    captions: Mapping[int, Sequence[str]] = {}
    skipped: frozenset[int] = frozenset()


class Job(NamedTuple):
    """A raw file to be written.

    Attributes:
        part: the file.
        number: of the file in the set.
        folder: to write in.
        checks: of its pictures.
        merge: which of its rows are one image.
        validation: the share of the images of train that becomes `val`, by a digest of their names; 0: none.
    """

    part: Part
    number: int
    folder: Path
    checks: Checks
    merge: Merge
    validation: float

    @property
    def done(self) -> Path:
        """The file that says that this raw file is written, and what it held."""
        return self.folder / f"{self.number:06d}.done.json"


def write_part(job: Job) -> None:
    """Writes the shards of a raw file; `job.done` appears when all of them are complete.

    Raises:
        UserError: the raw file is damaged, so that what follows cannot be read.
        OSError: a file cannot be written.
    """
    writers: dict[str, _SplitWriter] = {}
    bad: list[str] = []
    rows = 0
    for row in job.part.rows():
        rows += 1
        if isinstance(row, BadRow):
            bad.append(f"{row.where}: {row.reason}")
        elif row.number not in job.merge.skipped:
            try:
                size = _checked_size(row, job.checks)
            except (ValueError, UserError) as error:
                bad.append(str(UserError(f"{row.where}: {row.name}: {error}")))
                continue
            split = split_of_row(row, job.validation)
            if split not in writers:
                writers[split] = _SplitWriter(job.folder, f"{split}-{job.number:06d}")
            captions = [*row.captions, *job.merge.captions.get(row.number, ())]
            kept = job.part.captions_kept if split != "train" else 0
            writers[split].add(row._replace(captions=captions[: kept or None]), size)
    splits = {split: writer.finish() for split, writer in sorted(writers.items())}
    text = json.dumps({"rows": rows, "bad": bad, "splits": splits})
    with replacing(job.done) as partial:
        partial.write_text(text)


def split_of_row(row: Row, validation: float) -> str:
    """The split of a row; of train, the share `validation` becomes `val`."""
    if row.split == "train" and validation:
        digest = hashlib.blake2b((row.key or row.name).encode(), digest_size=8).digest()
        if int.from_bytes(digest, "big") < validation * 2**64:
            return "val"
    return row.split


def _checked_size(row: Row, checks: Checks) -> tuple[int, int]:
    size = picture_size(row.image, checks.max_pixels)
    if checks.decode:
        read_picture(row.image, "decoded", checks.max_pixels)
    return size


class _SplitWriter:
    """The shards of one split of a raw file, one after another."""

    def __init__(self, folder: Path, stem: str):
        self._folder = folder
        self._stem = stem
        self._shards: list[Shard] = []
        self._spreads: dict[str, Counter[int]] = {}
        self._current: _OpenShard | None = None

    def add(self, row: Row, size: tuple[int, int]) -> None:
        """Appends an image of `size`, width and height."""
        if self._current is None:
            self._current = _OpenShard(self._folder, f"{self._stem}-{len(self._shards):03d}")
        self._current.add(row)
        values = {"captions an image": [len(row.captions)], "width": [size[0]], "height": [size[1]]}
        values["words"] = [len(caption.split()) for caption in row.captions]
        for name, numbers in values.items():
            self._spreads.setdefault(name, Counter()).update(numbers)
        if self._current.is_full:
            self._shards.append(self._current.close())
            self._current = None

    def finish(self) -> dict[str, Any]:
        """Closes the last shard; all shards, and how often each number of words, pixels and so on occurs."""
        if self._current:
            self._shards.append(self._current.close())
        return {"shards": self._shards, "spreads": {k: sorted(v.items()) for k, v in self._spreads.items()}}


class _OpenShard:
    def __init__(self, folder: Path, name: str):
        self._path = folder / name
        # No compression: pictures do not shrink.  One record a chunk: each is read by itself.
        self._writer = ArrayRecordWriter(f"{self._path}{RECORDS}", "group_size:1,uncompressed")
        self._captions: list[list[str]] = []
        self._bytes = 0
        self._image_digest = hashlib.blake2b(digest_size=8)

    def add(self, row: Row) -> None:
        """Appends an image."""
        self._writer.write(serialized(row.name, row.captions, row.image))
        self._captions.append(row.captions)
        self._bytes += len(row.image)
        self._image_digest.update(row.image)

    @property
    def is_full(self) -> bool:
        """Whether the next image belongs in another shard."""
        return len(self._captions) >= IMAGES_A_SHARD or self._bytes >= BYTES_A_SHARD

    def close(self) -> Shard:
        """Completes the files of the shard."""
        self._writer.close()
        text = json.dumps(self._captions)
        Path(f"{self._path}{CAPTIONS}").write_text(text)
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        captions = sum(map(len, self._captions))
        images = len(self._captions)
        return Shard(self._path.name, images, captions, self._bytes, self._image_digest.hexdigest(), digest)


def serialized(name: str, captions: Sequence[str], image: bytes) -> bytes:
    """A record as `Split` reads it: a tf.train.Example."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
    feature = example.features.feature
    feature["name"].bytes_list.value.append(name.encode())
    feature["image"].bytes_list.value.append(image)
    feature["captions"].bytes_list.value.extend(caption.encode() for caption in captions)
    return example.SerializeToString(deterministic=True)  # equal in every process


def finished(jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
    """What the raw files that are written held, in the order of the files."""
    for job in jobs:
        yield json.loads(job.done.read_text())
