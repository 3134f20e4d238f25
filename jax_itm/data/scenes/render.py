"""The generated data set `scenes`: coloured shapes, and captions that say where they are.

A bag of words does not solve it. Every other four images are *distractors* of each other: one
background, the same objects, of which four exchange places (or colours) in pairs. Between any two of
such images two pairs exchange, and each of the six pairs does so between some two, so "a red ring
left of a blue star" of one is "a blue star left of a red ring" (or "a blue ring left of a red star")
of another. A caption is clearly true of its own image and clearly false of the other three.

Every record is a function of (seed, split, index) alone.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from jax_itm.data.scenes.captions import COLOURS, KINDS, SHAPES, TEXTURES, TONES, Scene, Thing, describe
from jax_itm.errors import UserError

SPLITS = {"train": 4000, "val": 500, "test": 500}
GROUP = 4  # images in a group of distractors

# Pixels.
WIDTH, REGION = 96, 12  # an image, and an object's crop after resizing
SCALE = 3  # drawn so much larger, then averaged: smooth edges
RADIUS = {"small": 8, "large": 14}
SPACING = 2 * RADIUS["large"] + 1  # between centres: any two objects may exchange places
CONTEXT = 2  # background seen around an object in its crop

RGB = {
    "red": (214, 40, 40),
    "orange": (247, 127, 20),
    "yellow": (250, 214, 50),
    "green": (50, 160, 70),
    "cyan": (80, 210, 215),
    "blue": (45, 85, 210),
    "purple": (130, 55, 175),
    "pink": (248, 145, 195),
    "brown": (125, 78, 42),
}


def scene(split: str, index: int, seed: int = 0) -> dict[str, Any]:
    """One record of the data set.

    Returns:
        {"name", "image": uint8 (96, 96, 3), "regions": float16 (r, 432), each object's crop as
        12 x 12 x 3 values in [-1, 1], "boxes": float32 (r, 4), "captions": five, "caption_ids",
        "phrases": [{"caption", "start", "end", "box"}]}: captions[caption][start:end] names the
        object of boxes[box].

    Raises:
        UserError: no such split.
    """
    # The first draws of `plan` are the group's; these are the image's own.
    rng = np.random.default_rng((seed, _number(split), index, 2))
    planned = plan(split, index, seed)
    first = index - index % GROUP
    others = [plan(split, i, seed) for i in range(first, first + GROUP) if i != index]
    captions = describe(planned, others if distracts(index) else [], rng)
    image, boxes = _draw(planned, rng)
    return {
        "name": f"{split}-{index:05d}",
        "image": np.asarray(image),
        "regions": np.stack([_crop(image, box) for box in boxes]),
        "boxes": np.array(boxes, np.float32) / WIDTH,
        "captions": [caption.text for caption in captions],
        "caption_ids": list(range(index * len(captions), (index + 1) * len(captions))),
        "phrases": [
            {"caption": number, "start": start, "end": end, "box": box}
            for number, caption in enumerate(captions)
            for start, end, box in caption.phrases
        ],
    }


def generate(split: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """The first `count` records of a split (see `scene`)."""
    return (scene(split, index, seed) for index in range(count))


def distracts(index: int) -> bool:
    """Whether an image is one of a group of distractors."""
    return index // GROUP % 2 == 0


@lru_cache(2 * GROUP)  # each of a group is planned for each
def plan(split: str, index: int, seed: int = 0) -> Scene:
    """What an image shows, before it is drawn and described."""
    if not distracts(index):
        return _group(np.random.default_rng((seed, _number(split), index, 1)), distractors=False)
    member = index % GROUP
    rng = np.random.default_rng((seed, _number(split), index - member, 1))
    base, colours = _group(rng, distractors=True), bool(rng.random() < 0.5)
    things = list(base.things)
    for i in range(GROUP):  # i ^ member: no object keeps its own, and any two exchange in one member
        other = base.things[i ^ member]
        place = {"colour": other.colour} if colours else {"x": other.x, "y": other.y}
        things[i] = replace(things[i], **place)
    return replace(base, things=tuple(things))


def _number(split: str) -> int:
    if split not in SPLITS:
        raise UserError(f"scenes: no split {split!r}; there are {', '.join(SPLITS)}")
    return list(SPLITS).index(split)


def _group(rng: np.random.Generator, distractors: bool) -> Scene:
    """A scene; among distractors no shape and no colour occurs twice."""
    count = int(rng.integers(GROUP if distractors else 3, 7))
    if distractors:
        shapes, colours = rng.permutation(SHAPES)[:count], rng.permutation(COLOURS)[:count]
    else:  # no colour twice on one shape, so that "a red ring" is one object
        pairs = rng.choice(len(SHAPES) * len(COLOURS), count, replace=False)
        shapes, colours = np.array(SHAPES)[pairs % len(SHAPES)], np.array(COLOURS)[pairs // len(SHAPES)]
    sizes = rng.choice(list(RADIUS), count)
    textures = rng.choice(TEXTURES, count, p=(0.55, 0.15, 0.15, 0.15))
    things = (
        Thing(str(shape), str(colour), str(size), str(texture), x / WIDTH, y / WIDTH)
        for shape, colour, size, texture, (x, y) in zip(
            shapes, colours, sizes, textures, _places(count, rng), strict=True
        )
    )
    return Scene(tuple(things), str(rng.choice(TONES)), str(rng.choice(KINDS)))


def _places(count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres in pixels, `SPACING` apart."""
    low = RADIUS["large"] + 3  # a tilted square reaches beyond its radius
    high = WIDTH - low
    while True:
        places: list[tuple[float, float]] = []
        for x, y in rng.uniform(low, high, (60, 2)).tolist():
            if all((x - u) ** 2 + (y - v) ** 2 >= SPACING**2 for u, v in places):
                places.append((x, y))
                if len(places) == count:
                    return places


def _turns(count: int, radii: tuple[float, ...] = (1.0,), start: float = -0.25) -> np.ndarray:
    """Corners (count, 2) of a regular polygon, or with two radii of a star; `start` in turns."""
    angles = 2 * np.pi * (start + np.arange(count) / count)
    return np.resize(radii, count)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40)
    x, y = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], 1)


def _cross(arm: float = 0.36) -> np.ndarray:
    half = np.array([(arm, 1), (arm, arm), (1, arm), (1, -arm), (arm, -arm), (arm, -1)])
    return np.concatenate([half, -half])


_DISC = _turns(40)
_ARROW = np.array([(0, -1), (0.9, 0), (0.4, 0), (0.4, 1), (-0.4, 1), (-0.4, 0), (-0.9, 0)])
# Each shape's outline, and what is cut out of it.
_OUTLINES: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
    "circle": (_DISC, None),
    "square": (_turns(4, start=0.125), None),
    "triangle": (_turns(3), None),
    "star": (_turns(10, (1.0, 0.48)), None),
    "ring": (_DISC, 0.45 * _DISC),
    "cross": (_cross(), None),
    "diamond": (_turns(4) * (0.72, 1), None),
    "heart": (_heart(), None),
    "moon": (_DISC, 0.85 * _DISC + (0.55, -0.1)),
    "arrow": (_ARROW, None),
}


def _draw(planned: Scene, rng: np.random.Generator) -> tuple[Image.Image, list[tuple[int, ...]]]:
    """The picture, and the box of each object in pixels."""
    canvas, boxes = _background(planned, rng), []
    for thing in planned.things:
        radius = RADIUS[thing.size] * SCALE
        mask = _mask(thing.shape, radius, rng.uniform(-0.15, 0.15))
        # Whole pixels after averaging, so that the box is exact.
        x1, y1, x2, y2 = mask.getbbox() or (0, 0, 0, 0)
        left = SCALE * round(WIDTH * thing.x - (x1 + x2) / 2 / SCALE)
        top = SCALE * round(WIDTH * thing.y - (y1 + y2) / 2 / SCALE)
        colour = np.array(RGB[thing.colour]) + rng.integers(-12, 13, 3)
        edge = 0.4 * colour if planned.tone == "light" else 0.45 * colour + 140
        canvas.paste(_rgb(np.broadcast_to(edge, (mask.height, mask.width, 3))), (left, top), mask)
        inner = mask.filter(ImageFilter.MinFilter(SCALE + 2))
        canvas.paste(_rgb(_fill(thing, colour, mask.width, radius)), (left, top), inner)
        corners = (left + x1) // SCALE, (top + y1) // SCALE, -(-(left + x2) // SCALE), -(-(top + y2) // SCALE)
        boxes.append(corners)
    return canvas.reduce(SCALE), boxes


def _mask(shape: str, radius: int, tilt: float) -> Image.Image:
    """Where a shape is: its larger side 2 x radius, its middle the mask's, turned by `tilt`."""
    outline, hole = _OUTLINES[shape]
    low, high = outline.min(0), outline.max(0)
    unit = 2 * radius / (high - low).max()
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    side = SCALE * (2 * radius // SCALE + 6)
    mask = Image.new("L", (side, side))
    for polygon, value in ((outline, 255), (hole, 0)):
        if polygon is not None:
            points = (polygon - (low + high) / 2) * unit @ turn + side / 2
            ImageDraw.Draw(mask).polygon([tuple(point) for point in points.tolist()], fill=value)
    return mask


def _fill(thing: Thing, colour: np.ndarray, side: int, radius: int) -> np.ndarray:
    """Colours (side, side, 3): plain, or a pattern of the colour and a lighter or darker one."""
    second = 0.3 * colour + 0.7 * 255 if colour.mean() < 150 else 0.4 * colour
    shade = np.linspace(1.06, 0.94, side)[:, None, None]
    return np.where(_pattern(thing.texture, side, radius), second, colour) * shade


@cache
def _pattern(texture: str, side: int, radius: int) -> np.ndarray:
    """Where a texture has its second colour: bool (side, side, 1)."""
    y, x = np.mgrid[:side, :side, :1][:2] * (1.75 / radius)  # three and a half periods across
    if texture == "striped":
        return (x + y) % 1.4 < 0.65
    if texture == "dotted":
        return (x % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 < 0.1
    if texture == "checked":
        return (x % 1 < 0.5) ^ (y % 1 < 0.5)
    return np.zeros_like(x, bool)


def _background(planned: Scene, rng: np.random.Generator) -> Image.Image:
    tint = rng.uniform(-10, 10, 3)
    colour = rng.uniform(205, 235) + tint if planned.tone == "light" else rng.uniform(35, 60) + tint
    y, x = np.mgrid[:WIDTH, :WIDTH] / WIDTH
    if planned.background == "shaded":
        angle = rng.uniform(0, 2 * np.pi)
        change = 60 * ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))
    elif planned.background == "grainy":
        change = rng.normal(0, 14, (WIDTH, WIDTH))
    elif planned.background == "tiled":
        change = 24.0 * ((x * 8 % 1 < 0.5) ^ (y * 8 % 1 < 0.5)) - 12
    else:
        change = np.zeros_like(x)
    return _rgb(colour + change[..., None]).resize((WIDTH * SCALE, WIDTH * SCALE), Image.Resampling.NEAREST)


def _rgb(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _crop(image: Image.Image, box: tuple[int, ...]) -> np.ndarray:
    """A region's features: (432,) float16."""
    x1, y1, x2, y2 = box
    x1, y1, x2, y2 = max(x1 - CONTEXT, 0), max(y1 - CONTEXT, 0), x2 + CONTEXT, y2 + CONTEXT
    grown = (x1, y1, min(x2, WIDTH), min(y2, WIDTH))
    crop = image.resize((REGION, REGION), Image.Resampling.BILINEAR, box=grown)
    return (np.asarray(crop, np.float32) / 127.5 - 1).astype(np.float16).reshape(-1)
