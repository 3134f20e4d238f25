"""Reading a prepared data set: random access to the images of one split."""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from jax_itm.data.image_transforms import MAX_PIXELS
from jax_itm.data.images import read_picture
from jax_itm.errors import UserError

SAMPLED = 16  # images that the checksum of a split reads

Example = Any  # the features of a tf.train.Example by name, which protobuf does not type


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
        caption_image: int32 (t,), the image of each caption, ascending.
        source_ids: the numbers that the source gives the captions, such as those of COCO's annotations; empty
            where it gives none, or where the set was prepared before these were kept.
        path: the folder of the data set.
        tokens: by side, "image" or "text", the tokens that frozen encoders computed beforehand (see
            `with_tokens`); images are then read as those.
    """

    def __init__(self, builder: Any, split: str, modality: str):  # a tfds.core.DatasetBuilder
        metadata = builder.info.metadata
        features = builder.info.features
        captions = metadata["captions"][split]
        self.name: str = builder.name
        self.split = split
        self.modality = modality
        self.features = tuple(features)
        self.region_dim: int | None = metadata["region_dim"]
        self.max_regions: int = metadata["max_regions"][split]
        self.has_boxes = "boxes" in features
        self.caption_image = np.repeat(np.arange(len(captions), dtype=np.int32), [len(c) for c in captions])
        numbers = metadata.get("source_ids", {}).get(split, [])
        self.source_ids: list[int] = [number for image in numbers for number in image]
        self.path = Path(builder.data_path)
        self.tokens: dict[str, Any] = {}
        self._all_captions = [caption for image in captions for caption in image]
        self._captions = self._all_captions
        self._num_bytes = int(builder.info.splits[split].num_bytes)
        # The data source of TFDS, but without its decoding, which turns every feature into an array by way of
        # Python objects. The regions of a record are one string of bytes, which numpy reads as it is.
        self._examples = builder.as_data_source(split).data_source
        self._size = len(self._examples)

    def __len__(self) -> int:
        return self._size

    def first(self, images: int) -> "Split":
        """The split of its first images, with their captions; all of it where `images` is 0 or too large."""
        if not 0 < images < len(self):
            return self
        part = copy.copy(self)
        part._size = images
        part.caption_image = self.caption_image[: np.searchsorted(self.caption_image, images)]
        part._captions = self._captions[: len(part.caption_image)]
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

    def checksum(self, side: str) -> str:
        """A short checksum of all captions ("text") or of the images ("image") of the split on disk.

        Of the images it takes their number, their bytes, and what some of them hold: features that were
        extracted anew differ in all of them, and in none of the numbers.
        """
        if side == "text":
            digest = hashlib.sha256("\n".join(self._all_captions).encode())
        else:
            digest = hashlib.sha256(f"{len(self._examples)} images, {self._num_bytes} bytes".encode())
            with self._report_damage():
                for image in np.unique(np.linspace(0, len(self._examples) - 1, SAMPLED).astype(int)):
                    digest.update(self._examples[int(image)])
        return digest.hexdigest()[:8]

    def identity(self) -> str:
        """What this split is, in a line: its name, its counts and its checksums."""
        return (
            f"{self.name}/{self.split}, {len(self._examples):,} images, {len(self._all_captions):,} captions,"
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
