"""A prepared data set in shards: its index, and random access to the images and captions of a split.

The folder of the set holds, for each shard, `NAME.array_record` (a tf.train.Example an image, with "name",
"image" and "captions") and `NAME.captions.json` (the captions of each image again, so that they can be read
without pictures), and `shards.json`, which lists them. A process keeps the list and a few open shards: 10
million images take some 20 MB, where `Split` of the smaller sets keeps every caption.
"""

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from jax_itm.errors import UserError

INDEX = "shards.json"
RECORDS = ".array_record"
CAPTIONS = ".captions.json"
OPEN = 48  # shards that stay open: those of two pools of `order.POOL`
READER = "readahead_buffer_size:0"


class Shard(NamedTuple):
    """What the index says of a shard: its name, what it holds, and digests of that."""

    name: str
    images: int
    captions: int
    bytes: int
    image_digest: str
    text_digest: str


@runtime_checkable
class Folder(Protocol):
    """The folder of a prepared set, wherever it lies."""

    def file(self, name: str) -> Path:
        """The local path of one of its files."""
        ...


class LocalFolder(NamedTuple):
    """A folder on a disk or a mount."""

    path: Path

    def file(self, name: str) -> Path:
        """The path of one of its files."""
        return self.path / name


class ShardCaptionTable(NamedTuple):
    """The captions of one shard.

    Attributes:
        texts: all of them.
        image: int64 (captions,), the image of each, numbered from 0 in the shard.
    """

    texts: list[str]
    image: np.ndarray


def read_index(folder: Folder) -> dict[str, Any]:
    """The index of a set: "splits": {split: {"shards": list[Shard], ..}}, and what `describe` says.

    Raises:
        UserError: it is damaged.
    """
    path = folder.file(INDEX)
    try:
        index = json.loads(path.read_text())
        for split in index["splits"].values():
            split["shards"] = [Shard(*shard) for shard in split["shards"]]
            if not split["shards"]:
                raise ValueError("a split without shards")
            for shard in split["shards"]:
                if [type(value) for value in shard] != [str, int, int, int, str, str]:
                    raise ValueError("a shard is described wrongly")
                if not 0 < shard.images <= shard.captions:
                    raise ValueError("a shard without images")
        return index
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: damaged; remove its folder and prepare it again ({error})") from error


class Shards:
    """Random access to one split; it can be pickled and sent to other processes.

    Attributes:
        shards: of the split, in order.
        first_image: int64 (shards + 1,), the number of each shard's first image in the split, and the total.
        first_caption: the same of its captions.
    """

    def __init__(self, folder: Folder, shards: Sequence[Shard]):
        self.shards = tuple(shards)
        self.first_image = np.cumsum([0, *(shard.images for shard in shards)])
        self.first_caption = np.cumsum([0, *(shard.captions for shard in shards)])
        self._folder = folder
        self._open_files()

    def _open_files(self) -> None:
        self._reader = functools.lru_cache(OPEN)(self._open)
        self.captions_of = functools.lru_cache(OPEN)(self._read_captions)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_reader", "captions_of")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open_files()

    def __len__(self) -> int:
        return int(self.first_image[-1])

    def __getitem__(self, image: int) -> bytes:
        """The record of an image; RuntimeError where its file is damaged or missing."""
        shard = int(np.searchsorted(self.first_image, image, "right")) - 1
        return self._reader(shard).read([int(image - self.first_image[shard])])[0]

    def captions(self) -> Iterator[str]:
        """All captions, shard by shard."""
        for shard in range(len(self.shards)):
            yield from self._read_captions(shard).texts

    def caption_images(self) -> np.ndarray:
        """int32 (captions,), the image of each caption of the split; for splits that are evaluated."""
        images = [self._read_captions(k).image + self.first_image[k] for k in range(len(self.shards))]
        return np.concatenate(images).astype(np.int32)

    def _open(self, shard: int) -> Any:  # an ArrayRecordReader, whose module has no types
        name = self.shards[shard].name + RECORDS
        path = self._folder.file(name)
        reader = ArrayRecordReader(str(path), options=READER, file_reader_buffer_size=32768)
        if not reader.ok() or reader.num_records() != self.shards[shard].images:
            raise RuntimeError(f"{path} is missing or cut")
        return reader

    def _read_captions(self, shard: int) -> ShardCaptionTable:
        path = self._folder.file(self.shards[shard].name + CAPTIONS)
        try:
            by_image = json.loads(path.read_text())
            counts = [len(texts) for texts in by_image]
            texts = [text for texts in by_image for text in texts]
            if len(counts) != self.shards[shard].images or len(texts) != self.shards[shard].captions:
                raise ValueError("it does not hold as many captions as the index says")
            if not all(type(text) is str for text in texts):
                raise ValueError("a caption is no text")
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: damaged; remove its folder and prepare it again ({error})") from error
        return ShardCaptionTable(texts, np.repeat(np.arange(len(counts)), counts))
