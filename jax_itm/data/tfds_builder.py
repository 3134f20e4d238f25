"""Writing a data set with TFDS, either completely or not at all."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from jax_itm.data.rgb import displayed_size
from jax_itm.data.sources.raw import Raw, Record
from jax_itm.progress import track


class RecordWriter(tfds.core.ExampleWriter):
    """ArrayRecord without compression: features hardly shrink, and reading is four times as fast."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> None:
        """Writes serialized examples to a file."""
        writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for _, example in examples:
            writer.write(example)
        writer.close()


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The builder of all data sets: `Raw` says in what they differ.

    Args:
        name: the data set.
        raw: its records.
        data_dir: the directory of the prepared data sets.
        version: of the layout on disk.
        origin: "source" and "entities" for the metadata.
    """

    url_infos = None  # nothing is downloaded; TFDS would look for a file of checksums

    def __init__(self, name: str, raw: Raw, data_dir: Path, version: str, origin: dict[str, str | None]):
        self.VERSION = tfds.core.Version(version)
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]: as TFDS's own AdhocBuilder does
        self._raw = raw
        self._metadata = tfds.core.MetadataDict(
            **origin,
            region_dim=raw.region_dim,
            captions={split: [] for split in raw.splits},
            max_regions=dict.fromkeys(raw.splits, 0),
            kind=raw.kind,
            notes=list(raw.notes),
            source_ids=dict(raw.source_ids),
            tally=dict(raw.tally),  # the counts of the first reading; the second, below, counts once more
            sizes={},
        )
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        f = tfds.features
        tensor = partial(f.Tensor, encoding="bytes")
        optional = {
            "image": f.Image(shape=(None, None, 3)),
            "regions": tensor(shape=(None, self._raw.region_dim), dtype=np.float16),
            "boxes": tensor(shape=(None, 4), dtype=np.float32),
            "phrases": f.Sequence({key: np.int64 for key in ("caption", "start", "end", "box")}),
        }
        features = {
            "image_id": np.int64,
            "name": f.Text(),
            "captions": f.Sequence(f.Text()),
            "caption_ids": f.Sequence(np.int64),
            **{key: optional[key] for key in self._raw.features},
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=f.FeaturesDict(features),
            metadata=self._metadata,
            disable_shuffling=True,
        )

    def _example_writer(self) -> RecordWriter:
        return RecordWriter(file_format=tfds.core.FileFormat.ARRAY_RECORD)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self._raw.splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, Record]]:
        captions = self._metadata["captions"][split]
        first_caption = 0
        sizes = []
        total = len(self._raw.captions.get(split, ()))
        for image_id, record in enumerate(track(self._raw.splits[split](), total, f"writing {split}")):
            example = to_example(record, image_id, first_caption)
            captions.append(list(record["captions"]))
            first_caption += len(record["captions"])
            sizes.append(sizes_of(example))
            yield image_id, example
        self.store_sizes(split, sizes)

    def store_sizes(self, split: str, sizes: Sequence[dict[str, int]]) -> None:
        """Summarises, in the metadata, the `sizes_of` all images of a split."""
        spreads = {key: min_median_max([image[key] for image in sizes]) for key in sizes[0]}
        self._metadata["sizes"][split] = spreads
        self._metadata["max_regions"][split] = spreads.get("regions", [0])[-1]


def to_example(record: Record, image_id: int, first_caption: int) -> Record:
    """A record as it is written: with its number, those of its captions, and its picture encoded.

    Args:
        record: as a reader returns it.
        image_id: the image's number in the split.
        first_caption: the number of its first caption in the split.
    """
    example = record | {"image_id": image_id}
    example["caption_ids"] = list(range(first_caption, first_caption + len(record["captions"])))
    if "image" in record:
        example["image"] = _encode(record["image"])
    return example


def sizes_of(example: Record) -> dict[str, int]:
    """Width and height of an example's picture in pixels, and its number of regions, where it has them."""
    sizes = {"regions": len(example["regions"])} if "regions" in example else {}
    if "image" in example:
        with Image.open(io.BytesIO(example["image"])) as picture:
            sizes |= dict(zip(("width", "height"), displayed_size(picture), strict=True))
    return sizes


def min_median_max(values: Sequence[int]) -> list[int]:
    """The minimum, the median and the maximum."""
    ordered = sorted(values)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _encode(image: bytes | np.ndarray) -> bytes:
    if isinstance(image, bytes):
        return image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
