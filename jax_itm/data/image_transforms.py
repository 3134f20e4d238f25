"""Resizes a picture of any size, and crops its centre, so that all have the same size.

The directory of a pretrained encoder says how; all other runs resize to squares of `config.data.image_size`.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from jax_itm.config import Facts
from jax_itm.errors import UserError
from jax_itm.types import Config

MAX_PIXELS = 89_478_485  # of a picture, by default: Pillow's own limit, above which it warns


class ImageTransform(NamedTuple):
    """How pictures are brought to one size.

    Attributes:
        resize: (height, width), or (length of the shorter edge,), or () to leave the size as it is.
        crop: (height, width) of a crop around the centre, padded with zeros where it exceeds the picture;
            () for no crop.
        resample: Pillow's number of the resampling filter.
        rounded: how to break a tie where the centre falls between two pixels: True rounds to the even
            offset, as torchvision does, False goes up and left.
        max_pixels: how many pixels a resized picture may have.
    """

    resize: tuple[int, ...]
    crop: tuple[int, ...] = ()
    resample: int = int(Image.Resampling.BILINEAR)
    rounded: bool = False
    max_pixels: int = MAX_PIXELS

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width of the result."""
        return self.crop or self.resize


def image_transform_of(config: Config, facts: Facts) -> ImageTransform:
    """The image transform of a run on pixels."""
    max_pixels = config.data.max_pixels
    if config.image.name != "pretrained":
        return ImageTransform((config.data.image_size,) * 2, max_pixels=max_pixels)
    transform = facts.architecture("image").image_transform
    return ImageTransform(
        tuple(transform.resize), tuple(transform.crop), transform.resample, transform.rounded, max_pixels
    )


def transform_image(pixels: np.ndarray, transform: ImageTransform) -> np.ndarray:
    """Resizes and crops one picture.

    Args:
        pixels: uint8 (h, v, 3), of any size.
        transform: how.

    Returns:
        uint8 (*transform.shape, 3).

    Raises:
        UserError: the picture is so thin that resizing its shorter edge would exceed `max_pixels`.
    """
    height, width = pixels.shape[:2]
    target = transform.resize or (height, width)
    if len(target) == 1:
        shorter = min(height, width)
        target = tuple(int(target[0] * edge / shorter) for edge in (height, width))
    if target != (height, width):
        if target[0] * target[1] > transform.max_pixels:
            raise UserError(
                f"a picture of {height:,} x {width:,} pixels is too thin: {target} after resizing, more than"
                f" config.data.max_pixels={transform.max_pixels}"
            )
        size = (target[1], target[0])
        filter_ = Image.Resampling(transform.resample)
        pixels = np.asarray(Image.fromarray(pixels).resize(size, filter_))
    if transform.crop:
        return _center_crop(pixels, transform.crop, transform.rounded)
    return pixels


def _center_crop(pixels: np.ndarray, shape: tuple[int, ...], rounded: bool) -> np.ndarray:
    if pixels.shape[:2] == shape:
        return pixels
    cropped = np.zeros((*shape, 3), pixels.dtype)
    inside = []
    source = []
    for size, wanted in zip(pixels.shape[:2], shape, strict=True):
        offset = round((size - wanted) / 2) if rounded else (size - wanted) // 2
        count = min(size, wanted)
        padding = max(-offset, 0)
        start = max(offset, 0)
        inside.append(slice(padding, padding + count))
        source.append(slice(start, start + count))
    cropped[tuple(inside)] = pixels[tuple(source)]
    return cropped
