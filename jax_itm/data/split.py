"""Reading a prepared data set: random access to the images of one split."""

import copy
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from jax_itm.data.image_transforms import MAX_PIXELS
from jax_itm.data.images import read_picture
from jax_itm.data.shards import Shards
from jax_itm.errors import UserError

SAMPLED = 16  # images that the checksum of a split reads

Example = Any  # the features of a tf.train.Example by name, which protobuf does not type


class SplitFacts(NamedTuple):
    """What a prepared set says of one of its splits.

    Attributes:
        name, split, features, region_dim, max_regions, path, source_ids: see `Split`.
        num_bytes: of its records.
        source_digest: of the pictures that the set was made of; "" where it is not known.
    """

    name: str
    split: str
    features: tuple[str, ...]
    region_dim: int | None
    max_regions: int
    path: Path
    num_bytes: int
    source_ids: Sequence[int] = ()
    source_digest: str = ""


class Split:
    """Random access to the images of one split; it can be pickled and sent to other processes.

    Attributes:
        name: the data set.
        split: the split's name within the data set.
        modality: what is read of an image: "regions" or "pixels".
        features: what a record of the data set has: "captions" and others, and of "image", "regions", "boxes"
            and "phrases" those that its source provides.
        region_dim: size f of a region's features; None where the set has no regions.
        max_regions: the largest number of regions of an image of the split; 0 where the set has no regions.
        has_boxes: whether the set has boxes; where it has none, records have boxes of zeros.
        shards: the shards of a large set; None where all captions are in memory. Training reads them shard by
            shard, and then neither `captions()` nor `caption_image` is ever made.
        caption_image: int32 (t,), the image of each caption, ascending.
        source_ids: the numbers that the source gives the captions, such as those of COCO's annotations; empty
            where it gives none, or where the set was prepared before these were kept.
        path: the folder of the data set.
        tokens: by side, "image" or "text", the tokens that frozen encoders computed beforehand (see
            `with_tokens`); images are then read as those.
    """

    def __init__(self, facts: SplitFacts, modality: str, examples: Any, captions: list[list[str]] | None):
        """The split of `facts`.

        Args:
            facts: what the set says of it.
            modality: what is read of an image.
            examples: the serialized record of each image by its number; `Shards` of a large set.
            captions: of each image; None where `examples` are shards, which have them.
        """
        self.name = facts.name
        self.split = facts.split
        self.modality = modality
        self.features = facts.features
        self.region_dim = facts.region_dim
        self.max_regions = facts.max_regions
        self.has_boxes = "boxes" in facts.features
        self.path = facts.path
        self.source_ids = facts.source_ids
        self.shards = examples if isinstance(examples, Shards) else None
        self.tokens: dict[str, Any] = {}
        self._num_bytes = facts.num_bytes
        self._source_digest = facts.source_digest
        self._examples = examples
        self._size = len(examples)
        self._captions_of_images = captions

    def __len__(self) -> int:
        return self._size

    @functools.cached_property
    def caption_image(self) -> np.ndarray:
        """int32 (t,), the image of each caption, ascending."""
        if self.shards:
            images = self.shards.caption_images()
        else:
            counts = [len(texts) for texts in self._captions_of_images or ()]
            images = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        return images[: np.searchsorted(images, self._size)]

    @functools.cached_property
    def _captions(self) -> list[str]:
        return list(islice(self._all_captions(), len(self.caption_image)))

    def _all_captions(self) -> Iterable[str]:
        if self.shards:
            return self.shards.captions()
        return chain.from_iterable(self._captions_of_images or ())

    @property
    def caption_count(self) -> int:
        """The number of captions, which needs no list of them."""
        if self.shards and self._size == len(self.shards):
            return int(self.shards.first_caption[-1])
        return len(self.caption_image)

    def first(self, images: int) -> "Split":
        """The split of its first images, with their captions; all of it where `images` is 0 or too large."""
        if not 0 < images < len(self):
            return self
        part = copy.copy(self)
        part._size = images
        for name in ("caption_image", "_captions"):  # of all images
            vars(part).pop(name, None)
        if self.source_ids:
            part.source_ids = self.source_ids[: len(part.caption_image)]
        return part

    def with_tokens(self, tokens: dict[str, Any]) -> "Split":
        """The same split with these `tokens`, by side."""
        split = copy.copy(self)
        split.tokens = tokens
        return split

    def captions(self) -> list[str]:
        """All captions, in the order of `caption_image`."""
        return self._captions

    def first_captions(self, most: int) -> list[str]:
        """The first captions, at most so many, without a list of the others."""
        return list(islice(self._all_captions(), min(most, self.caption_count)))

    def checksum(self, side: str) -> str:
        """A short checksum of all captions ("text") or of the images ("image") of the split on disk.

        Of the images it takes their number, their bytes, and what some of them hold: features that were
        extracted anew differ in all of them, and in none of the numbers. A picture that took the place of
        another of equal size is in the digest of the source. Shards have digests of all.
        """
        if self.shards:
            digests = [s.text_digest if side == "text" else s.image_digest for s in self.shards.shards]
            return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:8]
        if side == "text":
            digest = hashlib.sha256("\n".join(self._all_captions()).encode())
        else:
            digest = hashlib.sha256(f"{len(self._examples)} images, {self._num_bytes} bytes".encode())
            digest.update(self._source_digest.encode())
            with self._report_damage():
                for image in np.unique(np.linspace(0, len(self._examples) - 1, SAMPLED).astype(int)):
                    digest.update(self._examples[int(image)])
        return digest.hexdigest()[:8]

    def identity(self) -> str:
        """What this split is, in a line: its name, its counts and its checksums."""
        whole = self.shards.first_caption[-1] if self.shards else sum(1 for _ in self._all_captions())
        return (
            f"{self.name}/{self.split}, {len(self._examples):,} images, {whole:,} captions,"
            f" checksums {self.checksum('image')} {self.checksum('text')}"
        )

    def record(self, image: int) -> dict[str, Any]:
        """{"captions", "regions" (r, f) float16, "boxes" (r, 4)} or {"captions", "pixels"} of an image."""
        example = self._example(image)
        with self._report_damage():
            captions = [caption.decode() for caption in example["captions"].bytes_list.value]
        return {"captions": captions, **self._image(example)}

    def image(self, image: int) -> dict[str, np.ndarray]:
        """A record without its captions, as `collate_images` takes it."""
        if "image" in self.tokens:
            return {"features": self.tokens["image"][image]}
        return self._image(self._example(image))

    def image_name(self, image: int) -> str:
        """The name or path that the source has for an image."""
        example = self._example(image)
        with self._report_damage():
            return example["name"].bytes_list.value[0].decode()

    def picture(self, image: int) -> np.ndarray:
        """The picture uint8 (h, v, 3), whatever the modality; UserError where the set has no pictures."""
        if "image" not in self.features:
            raise UserError(f"{self.name}: has no pictures")
        return self._picture(self._example(image))

    def phrases(self, image: int) -> list[dict[str, int]]:
        """The phrases of an image's captions: {"caption", "start", "end", "box"} of each.

        `captions[caption][start:end]` names what is in box number `box` of the image.

        Raises:
            UserError: the set has no phrases.
        """
        if "phrases" not in self.features:
            raise UserError(f"{self.name}: has no phrases")
        example = self._example(image)
        keys = ("caption", "start", "end", "box")
        columns = [example[f"phrases/{key}"].int64_list.value for key in keys]
        return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]

    def _example(self, image: int) -> Example:
        parser = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
        with self._report_damage():
            data = self._examples[image]
            if not data:
                raise RuntimeError("empty record")
            return parser.FromString(data).features.feature

    def _image(self, example: Example) -> dict[str, np.ndarray]:
        if self.modality == "pixels":
            return {"pixels": self._picture(example)}
        with self._report_damage():
            regions = np.frombuffer(example["regions"].bytes_list.value[0], np.float16)
            regions = regions.reshape(-1, self.region_dim or 0)
            if not self.has_boxes:
                return {"regions": regions, "boxes": np.zeros((len(regions), 4), np.float32)}
            boxes = np.frombuffer(example["boxes"].bytes_list.value[0], np.float32)
            return {"regions": regions, "boxes": boxes.reshape(-1, 4)}

    def _picture(self, example: Example) -> np.ndarray:
        with self._report_damage():
            name = example["name"].bytes_list.value[0].decode()
            data = example["image"].bytes_list.value[0]
        # `prepare` has counted its pixels, by the limit of that time; what remains is Pillow's own, at which
        # it refuses a picture.
        return read_picture(data, name, 2 * MAX_PIXELS)

    @contextmanager
    def _report_damage(self) -> Iterator[None]:
        """Turns what reading a damaged or missing file raises into a UserError."""
        try:
            yield
        except (RuntimeError, DecodeError, IndexError, ValueError) as error:
            label = f"{self.name}/{self.split}"
            raise UserError(f"{label}: damaged; remove it and prepare it again ({error})") from error
