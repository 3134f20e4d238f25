"""The generated data set `scenes`: coloured shapes, and captions that say where they are.

A bag of words does not solve it. Every other four images are *distractors* of each other: one background and
the same objects, of which four exchange positions (or colours) in pairs. Between any two images of such a
group two pairs are exchanged, and each of the six pairs is exchanged between some two, so that "a red ring
left of a blue star" of one image is "a blue star left of a red ring" (or "a blue ring left of a red star") of
another. A caption is clearly true of its own image and clearly false of the other three.

Every record is a function of (seed, split, index) alone.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from jax_itm.data.scenes.captions import describe
from jax_itm.data.scenes.drawing import RADIUS, WIDTH, crop, draw
from jax_itm.data.scenes.scene import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, TONES, Scene, Thing
from jax_itm.data.sources.raw import Raw
from jax_itm.errors import UserError

SPLITS = {"train": 4000, "val": 500, "test": 500}
GROUP = 4  # images that are distractors of each other
SPACING = 2 * RADIUS["large"] + 1  # pixels between centres, so that any two objects can exchange positions


def read_scenes() -> Raw:
    """The complete data set, as `prepare` takes it."""
    splits = {split: partial(_records, split, count) for split, count in SPLITS.items()}
    region_dim = scene("train", 0)["regions"].shape[1]
    return Raw(splits, ("image", "regions", "boxes", "phrases"), region_dim)


def _records(split: str, count: int, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
    return (scene(split, index) for index in range(count)[start:stop])


def generate(split: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """The first `count` records of a split (see `scene`)."""
    return (scene(split, index, seed) for index in range(count))


def scene(split: str, index: int, seed: int = 0) -> dict[str, Any]:
    """One record of the data set.

    Returns:
        {"name", "image": uint8 (96, 96, 3), "regions": float16 (r, 432), each object's crop as 12 x 12 x 3
        values in [-1, 1], "boxes": float32 (r, 4), "captions": five, "caption_ids", "phrases": [{"caption",
        "start", "end", "box"}]}: `captions[caption][start:end]` names the object of `boxes[box]`.

    Raises:
        UserError: there is no such split.
    """
    # The generators of `plan` end in 1 and belong to a group of images; this one is the image's own.
    rng = np.random.default_rng((seed, _number(split), index, 2))
    planned = plan(split, index, seed)
    first = index - index % GROUP
    others = [plan(split, i, seed) for i in range(first, first + GROUP) if i != index]
    captions = describe(planned, others if has_distractors(index) else [], rng)
    image, boxes = draw(planned, rng)
    return {
        "name": f"{split}-{index:05d}",
        "image": np.asarray(image),
        "regions": np.stack([crop(image, box) for box in boxes]),
        "boxes": np.array(boxes, np.float32) / WIDTH,
        "captions": [caption.text for caption in captions],
        "caption_ids": list(range(index * len(captions), (index + 1) * len(captions))),
        "phrases": [
            {"caption": number, "start": start, "end": end, "box": box}
            for number, caption in enumerate(captions)
            for start, end, box in caption.phrases
        ],
    }


def has_distractors(index: int) -> bool:
    """Whether an image belongs to a group of distractors."""
    return index // GROUP % 2 == 0


@lru_cache(2 * GROUP)  # each image of a group needs the plans of all
def plan(split: str, index: int, seed: int = 0) -> Scene:
    """What an image shows, before it is drawn and described."""
    if not has_distractors(index):
        return _random_scene(np.random.default_rng((seed, _number(split), index, 1)), distractors=False)
    member = index % GROUP
    rng = np.random.default_rng((seed, _number(split), index - member, 1))
    base = _random_scene(rng, distractors=True)
    exchange_colours = bool(rng.random() < 0.5)
    things = list(base.things)
    for i in range(GROUP):  # i ^ member: any two objects are exchanged in exactly one member
        other = base.things[i ^ member]
        change = {"colour": other.colour} if exchange_colours else {"x": other.x, "y": other.y}
        things[i] = replace(things[i], **change)
    return replace(base, things=tuple(things))


def _number(split: str) -> int:
    if split not in SPLITS:
        raise UserError(f"scenes: no split {split!r}; there are {', '.join(SPLITS)}")
    return list(SPLITS).index(split)


def _random_scene(rng: np.random.Generator, distractors: bool) -> Scene:
    """A scene; among distractors no shape and no colour occurs twice."""
    count = int(rng.integers(GROUP if distractors else 3, 7))
    if distractors:
        shapes = rng.permutation(SHAPES)[:count]
        colours = rng.permutation(COLOURS)[:count]
    else:  # no shape twice in one colour, so that "a red ring" is one object
        pairs = rng.choice(len(SHAPES) * len(COLOURS), count, replace=False)
        shapes = np.array(SHAPES)[pairs % len(SHAPES)]
        colours = np.array(COLOURS)[pairs // len(SHAPES)]
    sizes = rng.choice(list(RADIUS), count)
    textures = rng.choice(TEXTURES, count, p=(0.55, 0.15, 0.15, 0.15))
    centres = _random_centres(count, rng)
    things = (
        Thing(str(shape), str(colour), str(size), str(texture), x / WIDTH, y / WIDTH)
        for shape, colour, size, texture, (x, y) in zip(
            shapes, colours, sizes, textures, centres, strict=True
        )
    )
    return Scene(tuple(things), str(rng.choice(TONES)), str(rng.choice(BACKGROUNDS)))


def _random_centres(count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres in pixels, at least `SPACING` apart."""
    low = RADIUS["large"] + 3  # a tilted square reaches beyond its radius
    high = WIDTH - low
    while True:
        centres: list[tuple[float, float]] = []
        for x, y in rng.uniform(low, high, (60, 2)).tolist():
            if all((x - u) ** 2 + (y - v) ** 2 >= SPACING**2 for u, v in centres):
                centres.append((x, y))
                if len(centres) == count:
                    return centres
