"""The embedded data set: rendered scenes of a few shapes, with captions that order decides.

Half of the scenes come in groups of four that hold the same objects: one layout, its mirror image,
two objects in each other's places, and two objects with each other's colours. Their captions use
the same words, so that a bag of words cannot tell them apart. Everything follows from (seed, split,
index).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from jax_itm.data.scene_text import captions_of

SPLITS = {"train": 4000, "val": 500, "test": 500}
SIZE = 96  # pixels of a side
CROP = 12  # pixels of a region's side
GROUP = 4  # scenes that may share their objects
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 150, 60),
    "blue": (40, 90, 200),
    "yellow": (240, 205, 40),
    "purple": (140, 70, 180),
    "orange": (245, 130, 30),
    "pink": (240, 130, 190),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart")
TEXTURES = ("plain", "plain", "striped", "dotted")
RADII = {"small": 7.5, "medium": 10.5, "large": 13.5}  # pixels; a cell of the 3 x 3 grid has 32


@dataclass(frozen=True)
class Thing:
    """An object: what it is, and where its centre lies, in pixels."""

    shape: str
    colour: str
    texture: str
    size: str
    cell: tuple[int, int]  # column and row on the 3 x 3 grid
    x: float
    y: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in units of the image."""
        r = RADII[self.size]
        return (
            (self.x - r) / SIZE,
            (self.y - r) / SIZE,
            (self.x + r) / SIZE,
            (self.y + r) / SIZE,
        )


def generate(split: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """The first `count` records of a split: see `scene`."""
    for index in range(count):
        yield scene(split, index, seed)


def scene(split: str, index: int, seed: int = 0) -> dict[str, Any]:
    """One record.

    Returns:
        name; image uint8 (96, 96, 3); regions float16 (r, 432), each object's crop, 12 x 12 x 3 in
        [-1, 1]; boxes float32 (r, 4); five captions, caption_ids; phrases, for every mention of an
        object {caption, start, end, box}: `captions[caption][start:end]` names box `box`.
    """
    number = tuple(SPLITS).index(split)
    rng = np.random.default_rng((seed, number, index, 1))
    things = arrange(split, index, seed)
    image = render(things, rng)
    captions, phrases = captions_of(things, rng)
    pixels = np.asarray(image)
    return {
        "name": f"{split}-{index:05d}",
        "image": pixels,
        "regions": np.stack([_crop(image, thing) for thing in things]),
        "boxes": np.array([thing.box for thing in things], np.float32),
        "captions": captions,
        "caption_ids": list(range(5 * index, 5 * index + 5)),
        "phrases": phrases,
    }


def arrange(split: str, index: int, seed: int) -> list[Thing]:
    """The objects of a scene, in a random order."""
    number, group = tuple(SPLITS).index(split), index // GROUP
    rng = np.random.default_rng((seed, number, group, 0))
    shared = rng.random() < 0.5
    own = np.random.default_rng((seed, number, index, 2))
    things = _layout(rng if shared else own)
    variant = index % GROUP if shared else 0
    if variant == 1:
        things = [replace(t, x=SIZE - t.x, cell=(2 - t.cell[0], t.cell[1])) for t in things]
    elif variant == 2:
        a, b = things[:2]
        things[:2] = (
            replace(a, x=b.x, y=b.y, cell=b.cell),
            replace(b, x=a.x, y=a.y, cell=a.cell),
        )
    elif variant == 3:
        a, b = things[:2]
        things[:2] = replace(a, colour=b.colour), replace(b, colour=a.colour)
    return [things[k] for k in own.permutation(len(things))]


def _layout(rng: np.random.Generator) -> list[Thing]:
    count = int(rng.integers(3, 7))
    cells = rng.permutation(9)[:count]
    # Any two objects differ in colour and in shape, so that swapped colours make new objects.
    colours, shapes = rng.permutation(list(COLOURS)), rng.permutation(SHAPES)
    things = []
    for k, cell in enumerate(cells):
        column, row = int(cell) % 3, int(cell) // 3
        jitter = rng.uniform(-2.5, 2.5, 2)
        things.append(
            Thing(
                str(shapes[k]),
                str(colours[k]),
                str(rng.choice(TEXTURES)),
                str(rng.choice(list(RADII))),
                (column, row),
                16 + 32 * column + float(jitter[0]),
                16 + 32 * row + float(jitter[1]),
            )
        )
    return things


def render(things: list[Thing], rng: np.random.Generator) -> Image.Image:
    """Draws the objects over a random background, smoothed from twice the size."""
    image = _background(rng)
    for thing in things:
        side = round(4 * RADII[thing.size])
        left, top = round(2 * thing.x) - side // 2, round(2 * thing.y) - side // 2
        image.paste((45, 45, 45), (left, top), _mask(thing.shape, side, 0))
        image.paste(_paint(thing, side), (left, top), _mask(thing.shape, side, 2))
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


@cache
def _mask(shape: str, side: int, inset: int) -> Image.Image:
    """The shape in a square of `side`, drawn four times as large and smoothed."""
    big, line = 4 * side, 4 * inset
    mask = Image.new("L", (big, big))
    draw, low, high = ImageDraw.Draw(mask), line, big - 1 - line
    at = lambda points: [(low + x * (high - low), low + y * (high - low)) for x, y in points]
    if shape in ("circle", "ring"):
        draw.ellipse((low, low, high, high), 255)
        if shape == "ring":
            hole = big * 0.29 - line
            draw.ellipse((hole, hole, big - 1 - hole, big - 1 - hole), 0)
            hole += 2 * line
            draw.ellipse((hole, hole, big - 1 - hole, big - 1 - hole), 0)
    elif shape == "heart":
        draw.polygon(at(_heart()), 255)
    else:
        draw.polygon(at(OUTLINES[shape]), 255)
    return mask.resize((side, side), Image.Resampling.BOX)


def _heart() -> list[tuple[float, float]]:
    angle = np.linspace(0, 2 * np.pi, 60)
    x = 16 * np.sin(angle) ** 3
    y = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
    return list(zip(0.5 + x / 33, 0.44 - y / 31, strict=True))


def _star() -> list[tuple[float, float]]:
    angle = np.pi * (np.arange(10) / 5 - 0.5)
    radius = np.where(np.arange(10) % 2, 0.22, 0.52)
    return list(zip(0.5 + radius * np.cos(angle), 0.52 + radius * np.sin(angle), strict=True))


OUTLINES = {
    "square": [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)],
    "triangle": [(0.5, 0.02), (1, 0.95), (0, 0.95)],
    "diamond": [(0.5, 0), (0.9, 0.5), (0.5, 1), (0.1, 0.5)],
    "cross": [
        *((0.33, 0), (0.67, 0), (0.67, 0.33), (1, 0.33), (1, 0.67), (0.67, 0.67)),
        *((0.67, 1), (0.33, 1), (0.33, 0.67), (0, 0.67), (0, 0.33), (0.33, 0.33)),
    ],
    "star": _star(),
}


def _paint(thing: Thing, side: int) -> Image.Image:
    """The object's colour over a square, with its texture in a darker shade."""
    colour = np.array(COLOURS[thing.colour], float)
    y, x = np.mgrid[:side, :side]
    if thing.texture == "striped":
        dark = (x + y) % 12 < 5
    elif thing.texture == "dotted":
        dark = (x % 10 - 4.5) ** 2 + (y % 10 - 4.5) ** 2 < 9
    else:
        dark = np.zeros((side, side), bool)
    paint = np.where(dark[..., None], 0.45 * colour, colour)
    return Image.fromarray(paint.astype(np.uint8))


def _background(rng: np.random.Generator) -> Image.Image:
    """A muted plain, graded, grainy or tiled ground, at twice the size."""
    side = 2 * SIZE
    one, two = rng.uniform(95, 185, (2, 1, 1, 3)) * np.array([1.0, 1.0, 0.97])
    y, x = np.mgrid[:side, :side][:, :, :, None] / side
    kind = rng.integers(4)
    if kind == 0:
        ground = np.broadcast_to(one, (side, side, 3))
    elif kind == 1:
        slope = rng.uniform(-1, 1, 2)
        mix = (x * slope[0] + y * slope[1] - min(slope[0], 0) - min(slope[1], 0)) / 2
        ground = one + (two - one) * mix
    elif kind == 2:
        ground = one + rng.normal(0, 16, (side, side, 1))
    else:
        tiles = (np.floor(x * 8) + np.floor(y * 8)) % 2
        ground = one + 0.35 * (two - one) * tiles
    return Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))


def _crop(image: Image.Image, thing: Thing) -> np.ndarray:
    x1, y1, x2, y2 = (SIZE * edge for edge in thing.box)
    crop = image.resize((CROP, CROP), Image.Resampling.BILINEAR, box=(x1, y1, x2, y2))
    return (np.asarray(crop, np.float32) / 127.5 - 1).astype(np.float16).ravel()
