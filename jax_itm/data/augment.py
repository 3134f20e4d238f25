"""Augmentation of pictures in training: random crops and horizontal flips.

Evaluation and encoding never augment. The random numbers depend only on the seed and on the example's
position in the stream of all epochs, so a resumed run, any number of processes and any batch size see the
same pixels.
"""

import math
from typing import NamedTuple

import numpy as np

from jax_itm.data.image_transforms import ImageTransform, transform_image
from jax_itm.types import Config

ASPECT_RATIOS = (3 / 4, 4 / 3)  # width to height of a crop, as in torchvision's RandomResizedCrop
ATTEMPTS = 10  # to find a crop that fits, as in torchvision
STREAM = 1  # keeps these random numbers apart from those of the order, whose seed is (seed, epoch)


class Augmentation(NamedTuple):
    """`config.image.augment`.

    Attributes:
        crop: the smallest and the largest fraction of a picture's area that a crop may take; () for no crop.
        flip: the probability that a picture is mirrored.
    """

    crop: tuple[float, ...] = ()
    flip: float = 0.0


def augmentation_of(config: Config) -> Augmentation | None:
    """The augmentation of a training run; None where it has none."""
    options = config.image.augment
    if not (options.crop or options.flip):
        return None
    return Augmentation(tuple(options.crop), options.flip)


def augment_image(
    pixels: np.ndarray, transform: ImageTransform, augmentation: Augmentation, seed: int, position: int
) -> np.ndarray:
    """A picture as training sees it, of the transform's shape.

    A random crop replaces the crop of the image transform: its area is a uniform fraction of the picture's,
    the logarithm of its aspect ratio is uniform, and it is resized to the transform's shape (Szegedy et al.,
    2015; as in torchvision).

    Args:
        pixels: uint8 (h, v, 3), of any size.
        transform: the one of evaluation.
        augmentation: what may be changed.
        seed: the run's.
        position: the example's position in the stream of all epochs, from 0.
    """
    # RandomState, as for the order of the examples: numpy keeps its streams the same in every version.
    rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence((seed, position, STREAM))))
    if augmentation.crop:
        top, left, height, width = _random_crop(pixels.shape[:2], augmentation.crop, rng)
        pixels = pixels[top : top + height, left : left + width]
        transform = ImageTransform(transform.shape, resample=transform.resample)
    pixels = transform_image(pixels, transform)
    return pixels[:, ::-1] if rng.uniform() < augmentation.flip else pixels


def _random_crop(
    shape: tuple[int, ...], fractions: tuple[float, ...], rng: np.random.RandomState
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop of a picture (h, v)."""
    rows, columns = shape
    smallest, largest = fractions
    narrowest, widest = ASPECT_RATIOS
    for _ in range(ATTEMPTS):
        area = rows * columns * rng.uniform(smallest, largest)
        ratio = math.exp(rng.uniform(math.log(narrowest), math.log(widest)))
        width = round(math.sqrt(area * ratio))
        height = round(math.sqrt(area / ratio))
        if 0 < width <= columns and 0 < height <= rows:
            return rng.randint(rows - height + 1), rng.randint(columns - width + 1), height, width
    # A long, thin picture, in which none fitted: the largest crop around its centre that the ratios allow.
    width = min(columns, max(1, round(rows * widest)))
    height = min(rows, max(1, round(columns / narrowest)))
    return (rows - height) // 2, (columns - width) // 2, height, width
