"""Writing a data set with TFDS: all of it or nothing."""

import io
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from jax_itm.data.sources.raw import Raw, Record


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
