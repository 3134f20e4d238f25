"""The objects of a generated scene, and facts about them: how clearly each one holds.

A *fact* has a clearness: at least 1 where nobody would deny it, at most `DENIED` where nobody would claim it.
Lengths are in units of the image's width, and y points down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import dist, inf
from typing import NamedTuple

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart", "moon", "arrow")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown")
TEXTURES = ("plain", "striped", "dotted", "checked")
TONES = ("light", "dark")
BACKGROUNDS = ("plain", "shaded", "grainy", "tiled")
DENIED = 0.2

# The direction in which the subject of a relation lies from its object.
RELATIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
EXTREMES = dict(zip(("leftmost", "rightmost", "highest", "lowest"), RELATIONS.values(), strict=True))
CORNERS = {
    f"{vertical} {horizontal}": (dx, dy)
    for vertical, dy in (("top", -1), ("bottom", 1))
    for horizontal, dx in (("left", -1), ("right", 1))
}

Point = tuple[float, float]
Name = dict[str, str]  # the attributes of an object that a caption states


@dataclass(frozen=True)
class Thing:
    """An object of a scene; (x, y) is its centre, `size` is "small" or "large"."""

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    """Objects on a background."""

    things: tuple[Thing, ...]
    tone: str
    background: str


class Fact(NamedTuple):
    """A kind of fact, and the numbers of the objects that it is about, the subject first."""

    kind: str
    who: tuple[int, ...]


class Sort(NamedTuple):
    """Facts that a caption chooses among: how often, about how many objects, and of which kinds."""

    weight: float
    objects: int
    kinds: tuple[str, ...]


SORTS = (
    Sort(0.45, 2, tuple(RELATIONS)),
    Sort(0.2, 1, (*CORNERS, "middle")),
    Sort(0.13, 1, tuple(EXTREMES)),
    Sort(0.11, 2, ("nearest",)),
    Sort(0.11, 3, ("between",)),
)


def clear_facts(scene: Scene) -> list[list[Fact]]:
    """The facts that are clear in a scene, for each of `SORTS`."""
    centres = _centres(scene)
    return [
        [
            fact
            for kind in sort.kinds
            for who in permutations(range(len(centres)), sort.objects)
            if clearness(fact := Fact(kind, who), centres) >= 1
        ]
        for sort in SORTS
    ]


def clearness(fact: Fact, centres: Sequence[Point]) -> float:
    """How clearly a fact holds of objects with these centres (see the module's docstring)."""
    kind = fact.kind
    subject, *others = fact.who
    x, y = centres[subject]
    rest = [centre for i, centre in enumerate(centres) if i != subject]
    if kind in RELATIONS:
        dx, dy = RELATIONS[kind]
        u, v = centres[others[0]]
        along = (x - u) * dx + (y - v) * dy
        across = abs((x - u) * dy) + abs((y - v) * dx)
        return min(along / 0.15, along / (0.6 * across + 1e-9))
    if kind in CORNERS:
        dx, dy = CORNERS[kind]
        return min((x - 0.5) * dx, (y - 0.5) * dy) / 0.13
    if kind == "middle":
        return (0.26 - max(abs(x - 0.5), abs(y - 0.5))) / 0.13
    if kind in EXTREMES:
        dx, dy = EXTREMES[kind]
        return (x * dx + y * dy - max(u * dx + v * dy for u, v in rest)) / 0.06
    if kind == "nearest":  # of all objects, the subject is the nearest to the other one
        anchor = centres[others[0]]
        distances = [dist(anchor, p) for i, p in enumerate(centres) if i not in (subject, others[0])]
        return (min(distances, default=inf) - dist(anchor, (x, y))) / 0.06
    return _between((x, y), centres[others[0]], centres[others[1]])


def _between(point: Point, first: Point, second: Point) -> float:
    (x, y), (u, v), (s, t) = point, first, second
    length = dist(first, second)
    along = ((x - u) * (s - u) + (y - v) * (t - v)) / length**2
    aside = abs((x - u) * (t - v) - (y - v) * (s - u)) / length
    return min((along - 0.05) / 0.2, (0.95 - along) / 0.2, (0.22 - aside) / 0.1)


def truth(facts: Sequence[Fact], names: dict[int, Name], scene: Scene) -> float:
    """How clearly facts hold in `scene` if their objects are identified by these attributes alone.

    Of all ways to assign objects of the scene to the names, the one in which the least clear fact is clearest
    counts; -inf where no object of the scene matches a name.
    """
    centres = _centres(scene)
    best = -inf
    for chosen in product(*(matching(name, scene) for name in names.values())):
        if len(set(chosen)) == len(chosen):
            assigned = dict(zip(names, chosen, strict=True))
            reading = (Fact(fact.kind, tuple(assigned[i] for i in fact.who)) for fact in facts)
            best = max(best, min(clearness(fact, centres) for fact in reading))
    return best


def matching(name: Name, scene: Scene) -> list[int]:
    """The numbers of the objects that have all attributes of a name."""
    return [
        i
        for i, thing in enumerate(scene.things)
        if all(getattr(thing, attribute) == value for attribute, value in name.items())
    ]


def _centres(scene: Scene) -> list[Point]:
    return [(thing.x, thing.y) for thing in scene.things]
