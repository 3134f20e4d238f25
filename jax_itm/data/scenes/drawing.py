"""Drawing a scene: outlines of shapes, textures, backgrounds, and the crops around objects."""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from jax_itm.data.scenes.scene import Scene, Thing

# Pixels.
WIDTH = 96  # of an image
REGION = 12  # of an object's crop after resizing
SCALE = 3  # an image is drawn so much larger and then averaged, for smooth edges
RADIUS = {"small": 8, "large": 14}
CONTEXT = 2  # background visible around an object in its crop

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

Box = tuple[int, int, int, int]  # x1 y1 x2 y2 in pixels


def _polygon(count: int, radii: tuple[float, ...] = (1.0,), start: float = -0.25) -> np.ndarray:
    """Corners (count, 2) of a regular polygon, or with two radii of a star; `start` in full turns."""
    angles = 2 * np.pi * (start + np.arange(count) / count)
    return np.resize(radii, count)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], 1)


def _cross(arm: float = 0.36) -> np.ndarray:
    half = np.array([(arm, 1), (arm, arm), (1, arm), (1, -arm), (arm, -arm), (arm, -1)])
    return np.concatenate([half, -half])


_DISC = _polygon(40)
_ARROW = np.array([(0, -1), (0.9, 0), (0.4, 0), (0.4, 1), (-0.4, 1), (-0.4, 0), (-0.9, 0)])
# Each shape's outline, and the hole that is cut out of it.
_OUTLINES: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
    "circle": (_DISC, None),
    "square": (_polygon(4, start=0.125), None),
    "triangle": (_polygon(3), None),
    "star": (_polygon(10, (1.0, 0.48)), None),
    "ring": (_DISC, 0.45 * _DISC),
    "cross": (_cross(), None),
    "diamond": (_polygon(4) * (0.72, 1), None),
    "heart": (_heart(), None),
    "moon": (_DISC, 0.85 * _DISC + (0.55, -0.1)),
    "arrow": (_ARROW, None),
}


def draw(scene: Scene, rng: np.random.Generator) -> tuple[Image.Image, list[Box]]:
    """The picture of a scene, and the box of each object."""
    canvas = _background(scene, rng)
    boxes = []
    for thing in scene.things:
        radius = RADIUS[thing.size] * SCALE
        mask = _mask(thing.shape, radius, rng.uniform(-0.15, 0.15))
        # At multiples of SCALE, that is at pixels of the averaged image, so that the box is exact.
        x1, y1, x2, y2 = mask.getbbox() or (0, 0, 0, 0)
        left = SCALE * round(WIDTH * thing.x - (x1 + x2) / 2 / SCALE)
        top = SCALE * round(WIDTH * thing.y - (y1 + y2) / 2 / SCALE)
        colour = np.array(RGB[thing.colour]) + rng.integers(-12, 13, 3)
        edge = 0.4 * colour if scene.tone == "light" else 0.45 * colour + 140
        canvas.paste(_rgb(np.broadcast_to(edge, (mask.height, mask.width, 3))), (left, top), mask)
        inner = mask.filter(ImageFilter.MinFilter(SCALE + 2))
        canvas.paste(_rgb(_fill(thing, colour, mask.width, radius)), (left, top), inner)
        low = ((left + x1) // SCALE, (top + y1) // SCALE)
        high = (-(-(left + x2) // SCALE), -(-(top + y2) // SCALE))
        boxes.append((*low, *high))
    return canvas.reduce(SCALE), boxes


def crop(image: Image.Image, box: Box) -> np.ndarray:
    """A region's features, float16 (432,): its pixels, 12 x 12 x 3 in [-1, 1]."""
    x1, y1, x2, y2 = box
    low = (max(x1 - CONTEXT, 0), max(y1 - CONTEXT, 0))
    high = (min(x2 + CONTEXT, WIDTH), min(y2 + CONTEXT, WIDTH))
    region = image.resize((REGION, REGION), Image.Resampling.BILINEAR, box=(*low, *high))
    return (np.asarray(region, np.float32) / 127.5 - 1).astype(np.float16).reshape(-1)


def _mask(shape: str, radius: int, tilt: float) -> Image.Image:
    """Where a shape is, turned by `tilt`: its longer side is 2 x radius, its centre is the mask's."""
    outline, hole = _OUTLINES[shape]
    low = outline.min(0)
    high = outline.max(0)
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


def _background(scene: Scene, rng: np.random.Generator) -> Image.Image:
    tint = rng.uniform(-10, 10, 3)
    colour = rng.uniform(205, 235) + tint if scene.tone == "light" else rng.uniform(35, 60) + tint
    y, x = np.mgrid[:WIDTH, :WIDTH] / WIDTH
    if scene.background == "shaded":
        angle = rng.uniform(0, 2 * np.pi)
        change = 60 * ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))
    elif scene.background == "grainy":
        change = rng.normal(0, 14, (WIDTH, WIDTH))
    elif scene.background == "tiled":
        change = 24.0 * ((x * 8 % 1 < 0.5) ^ (y * 8 % 1 < 0.5)) - 12
    else:
        change = np.zeros_like(x)
    return _rgb(colour + change[..., None]).resize((WIDTH * SCALE, WIDTH * SCALE), Image.Resampling.NEAREST)


def _rgb(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
