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

from jax_itm.data.images import MAX_PIXELS, read_picture
from jax_itm.errors import UserError


class Split:
    """Random access to the images of one split; may be sent to other processes.

    Attributes:
        name: of the data set.
        split: its name in the data set.
        view: "regions" or "pixels".
        region_dim: size f of a region's features; None where the set has none.
        max_regions: the most regions of an image of the split; 0 where the set has none.
        holds: of "image", "regions", "boxes", "phrases" (among others) what the set has.
        has_boxes: whether the set has boxes; where not, records give zeros.
        caption_image: int32 (t,), the image of each caption, ascending.
        path: the folder of the data set.
        tokens: of a run's frozen towers, by side (`encode.attached`): images are read as them.
    """

    def __init__(self, builder: Any, split: str, view: str):  # a tfds.core.DatasetBuilder
        metadata, features = builder.info.metadata, builder.info.features
        captions = metadata["captions"][split]
        self.name, self.split, self.view = builder.name, split, view
        self.region_dim: int | None = metadata["region_dim"]
        self.max_regions: int = metadata["max_regions"][split]
        self.has_boxes = "boxes" in features
        self.caption_image = np.repeat(np.arange(len(captions), dtype=np.int32), [len(c) for c in captions])
        self._captions = self._whole = [caption for image in captions for caption in image]
        self.path = Path(builder.data_path)
        self.tokens: dict[str, Any] = {}
        self._size = int(builder.info.splits[split].num_bytes)
        self.holds = tuple(features)
        # TFDS's source of bytes. Its decoding turns every feature into an array by way of Python
        # objects; a record's regions are one string of bytes, and numpy reads that as it is.
        self._bytes = builder.as_data_source(split).data_source
        self._count = len(self._bytes)

    def __len__(self) -> int:
        return self._count

    def first(self, images: int) -> "Split":
        """The split of its first images, with their captions; all where `images` is 0 or too large."""
        if not 0 < images < len(self):
            return self
        part = copy.copy(self)
        part._count = images
        part.caption_image = self.caption_image[: np.searchsorted(self.caption_image, images)]
        part._captions = self._captions[: len(part.caption_image)]
        return part

    def with_tokens(self, tokens: dict[str, Any]) -> "Split":
        """The split with these `tokens`, by side."""
        same = copy.copy(self)
        same.tokens = tokens
        return same

    def captions(self) -> list[str]:
        """All captions, in the order of `caption_image`."""
        return self._captions

    def digest(self, side: str) -> str:
        """What tells the whole split's captions, or images, from others."""
        told = "\n".join(self._whole) if side == "text" else f"{len(self._bytes)} images, {self._size} bytes"
        return hashlib.sha256(told.encode()).hexdigest()[:8]

    def record(self, image: int) -> dict[str, Any]:
        """{"captions", "regions" (r, f) float16, "boxes" (r, 4)} or {"captions", "pixels"}."""
        found = self._features(image)
        with self._undamaged():
            captions = [caption.decode() for caption in found["captions"].bytes_list.value]
        return {"captions": captions, **self._image(found)}

    def image(self, image: int) -> dict[str, np.ndarray]:
        """A record without its captions: what `collate_images` takes."""
        if "image" in self.tokens:
            return {"features": self.tokens["image"][image]}
        return self._image(self._features(image))

    def _image(self, found) -> dict[str, np.ndarray]:
        if self.view == "pixels":
            return {"pixels": self._picture(found)}
        with self._undamaged():
            regions = np.frombuffer(found["regions"].bytes_list.value[0], np.float16)
            regions = regions.reshape(-1, self.region_dim or 0)
            if not self.has_boxes:
                return {"regions": regions, "boxes": np.zeros((len(regions), 4), np.float32)}
            boxes = np.frombuffer(found["boxes"].bytes_list.value[0], np.float32)
            return {"regions": regions, "boxes": boxes.reshape(-1, 4)}

    def picture(self, image: int) -> np.ndarray:
        """The picture uint8 (h, v, 3), whatever the view; UserError where the set has none."""
        if "image" not in self.holds:
            raise UserError(f"{self.name}: holds no pictures")
        return self._picture(self._features(image))

    def phrases(self, image: int) -> list[dict[str, int]]:
        """{"caption", "start", "end", "box"} of each: captions[caption][start:end] is the box's."""
        if "phrases" not in self.holds:
            raise UserError(f"{self.name}: holds no phrases")
        found = self._features(image)
        keys = ("caption", "start", "end", "box")
        columns = [found[f"phrases/{key}"].int64_list.value for key in keys]
        return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]

    def _features(self, image: int):
        example = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
        with self._undamaged():
            if not (data := self._bytes[image]):
                raise RuntimeError("empty record")
            return example.FromString(data).features.feature

    def _picture(self, found) -> np.ndarray:
        with self._undamaged():
            name = found["name"].bytes_list.value[0].decode()
            data = found["image"].bytes_list.value[0]
        # Their pixels were counted when the set was made, by a limit of its own; Pillow's stays.
        return read_picture(data, name, 2 * MAX_PIXELS)

    @contextmanager
    def _undamaged(self) -> Iterator[None]:
        """Makes a UserError of what reading a damaged or missing file raises."""
        try:
            yield
        except (RuntimeError, DecodeError, IndexError, ValueError) as error:
            where = f"{self.name}/{self.split}"
            raise UserError(f"{where}: damaged; remove it and prepare again ({error})") from error
