"""From a picture to pixels of one size: resized, then cut out of the middle.

A pretrained tower's directory says how; other runs take squares of `config.data.image_size`.
"""

import numpy as np
from PIL import Image

from jax_itm.config.fields import DATA
from jax_itm.errors import UserError
from jax_itm.types import Config, NamedTuple


class Frame(NamedTuple):
    """How pictures are brought to one size."""

    resize: tuple[int, ...]  # (height, width), or (shorter edge,), or () for not at all
    crop: tuple[int, ...] = ()  # (height, width) of the middle, zeros beyond the picture; () for all of it
    resample: int = int(Image.Resampling.BILINEAR)
    rounded: bool = False  # half a pixel off the middle: to the even side, as torchvision, not up and left
    most: int = DATA["max_pixels"]  # pixels that a picture may have once resized

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width of what comes out."""
        return self.crop or self.resize


def frame_of(config: Config) -> Frame:
    """The frame of a run on pixels."""
    most = config.data.max_pixels
    if config.image.name != "pretrained":
        return Frame((config.data.image_size,) * 2, most=most)
    if not config.image.arch:
        raise UserError("config.image.arch: empty; a run's start fills it from the tower's config.json")
    frame = config.image.arch.frame
    rounded = frame.get("rounded", False)  # runs of old have no such field
    return Frame(tuple(frame.resize), tuple(frame.crop), frame.resample, rounded, most)


def fit(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    """Pixels uint8 (h, v, 3) of any size, framed; UserError where they are too thin to be resized so."""
    height, width = pixels.shape[:2]
    wanted = frame.resize or (height, width)
    if len(wanted) == 1:
        short = min(height, width)
        wanted = tuple(int(wanted[0] * edge / short) for edge in (height, width))
    if wanted != (height, width):
        if wanted[0] * wanted[1] > frame.most:  # resized by its short edge
            raise UserError(
                f"a picture of {height:,} x {width:,} pixels is too thin: {wanted} once resized, more than"
                f" config.data.max_pixels={frame.most}"
            )
        size = wanted[1], wanted[0]
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling(frame.resample)))
    return _cut(pixels, frame.crop, frame.rounded) if frame.crop else pixels


def _cut(pixels: np.ndarray, shape: tuple[int, ...], rounded: bool) -> np.ndarray:
    if pixels.shape[:2] == shape:
        return pixels
    found = np.zeros((*shape, 3), pixels.dtype)
    inside, taken = [], []
    for size, wanted in zip(pixels.shape[:2], shape, strict=True):
        first = round((size - wanted) / 2) if rounded else (size - wanted) // 2
        count = min(size, wanted)
        inside.append(slice(max(-first, 0), max(-first, 0) + count))
        taken.append(slice(max(first, 0), max(first, 0) + count))
    found[tuple(inside)] = pixels[tuple(taken)]
    return found
