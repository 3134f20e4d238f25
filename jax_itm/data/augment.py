"""What training changes in pictures before they are framed: random crops and mirror images.

Evaluation and encoding never do. What is drawn depends on the seed and on the example's place in the stream
of all epochs alone, so that a run that goes on, any number of processes, and any batch size see the same
pixels.
"""

import math

import numpy as np

from jax_itm.data.image_transforms import Frame, fit
from jax_itm.errors import UserError
from jax_itm.types import Config, NamedTuple

RATIOS = (
    3 / 4,
    4 / 3,
)  # of a crop's width and height, as torchvision's RandomResizedCrop, which the field uses
TRIES = 10
STREAM = 1  # keeps these draws apart from those of the order, which are of (seed, epoch)


class Augment(NamedTuple):
    """`config.image.augment`."""

    crop: tuple[float, ...] = ()  # the least and the largest share of a picture's area; () for no crop
    flip: float = 0.0  # how often a picture is mirrored


def augment_of(config: Config) -> Augment | None:
    """What a run's training does to its pictures; None where that is nothing."""
    options = config.image.augment
    return Augment(tuple(options.crop), options.flip) if options.crop or options.flip else None


def augmented(pixels: np.ndarray, frame: Frame, augment: Augment, seed: int, place: int) -> np.ndarray:
    """A picture as training sees it, of the frame's shape.

    A crop takes the place of the frame's own: its area is a uniform share of the picture's, the logarithm of
    its ratio is uniform, and it is resized to the frame's shape (Szegedy et al., 2015; as torchvision).

    Args:
        pixels: uint8 (h, v, 3), of any size.
        frame: as in evaluation.
        augment: what may be changed.
        seed: the run's.
        place: of the example in the stream of all epochs, from 0.
    """
    # RandomState, as for the order: numpy freezes its streams.
    rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence((seed, place, STREAM))))
    if augment.crop:
        top, left, height, width = _window(pixels.shape[:2], augment.crop, rng)
        pixels = pixels[top : top + height, left : left + width]
        frame = Frame(frame.shape, resample=frame.resample)
    pixels = fit(pixels, frame)
    return pixels[:, ::-1] if rng.uniform() < augment.flip else pixels


def _window(
    shape: tuple[int, ...], shares: tuple[float, ...], rng: np.random.RandomState
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part of a picture (h, v)."""
    rows, columns = shape
    low, high = shares
    narrow, wide = map(math.log, RATIOS)
    for _ in range(TRIES):
        area = rows * columns * rng.uniform(low, high)
        ratio = math.exp(rng.uniform(narrow, wide))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= columns and 0 < height <= rows:
            return rng.randint(rows - height + 1), rng.randint(columns - width + 1), height, width
    # A long picture, of which no such part was found: its middle, as nearly whole as the ratios allow.
    width = min(columns, max(1, round(rows * RATIOS[1])))
    height = min(rows, max(1, round(columns / RATIOS[0])))
    return (rows - height) // 2, (columns - width) // 2, height, width


def check_augment(config: Config) -> None:
    """Raises UserError for an augmentation that no run could use."""
    options = config.image.augment
    if not (options.crop or options.flip):
        return
    crop, flip = options.crop, options.flip
    shares = [x for x in crop if isinstance(x, int | float) and 0 < x <= 1]
    if crop and not (len(crop) == len(shares) == 2 and crop[0] <= crop[1]):
        raise UserError(
            f"config.image.augment.crop={crop}: must be the least and the largest share of the area, such as"
            " (0.08, 1.0), or () for none"
        )
    if not 0 <= flip <= 1:
        raise UserError(f"config.image.augment.flip={flip}: must be from 0 to 1")
    name = "crop" if crop else "flip"
    if config.data.view != "pixels":
        raise UserError(f"config.image.augment.{name}: needs config.data.view='pixels'")
    if config.image.cached:
        raise UserError(f"config.image.augment.{name}: tokens made once (config.image.cached) never change")
