"""Captions of a scene: true sentences of two or three objects, in varied words."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

NAMES = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus sign"),
    "diamond": ("diamond",),
    "heart": ("heart",),
}
SIZES = {"small": ("small", "little"), "medium": ("",), "large": ("large", "big")}
RELATIONS = {
    "left": ("to the left of", "left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right side of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}
VERBS = ("is", "lies", "sits", "can be seen")
PLACES = (
    ("in the top left corner", "at the top left"),
    ("at the top", "at the top in the middle"),
    ("in the top right corner", "at the top right"),
    ("at the left edge", "on the far left"),
    ("in the middle", "in the centre"),
    ("at the right edge", "on the far right"),
    ("in the bottom left corner", "at the bottom left"),
    ("at the bottom", "at the bottom in the middle"),
    ("in the bottom right corner", "at the bottom right"),
)
CLEAR = 16.0  # pixels between two centres before one is called left of or above the other


def captions_of(things: Sequence[Any], rng: np.random.Generator) -> tuple[list[str], list[dict]]:
    """Five different captions of a scene and the phrases in them that name objects.

    Args:
        things: the scene's objects: shape, colour, texture, size, cell, x, y.
        rng: chooses templates, words and objects.

    Returns:
        captions, and phrases {caption, start, end, box}.
    """
    captions, phrases = [], []
    kinds: tuple[Callable, ...] = (_relation, _chain, _places, _order, _relation_and_place)
    while len(captions) < 5:
        template = kinds[len(captions)](things, rng)
        text, spans = _fill(template, things, rng)
        if text not in captions:
            phrases += [
                {"caption": len(captions), "start": start, "end": end, "box": box}
                for start, end, box in spans
            ]
            captions.append(text)
    return captions, phrases


def _fill(
    template: str, things: Sequence[Any], rng: np.random.Generator
) -> tuple[str, list[tuple[int, int, int]]]:
    """Replaces each {k} by a phrase for object k; returns the text and the phrases' spans."""
    text, spans = "", []
    for part in re.split(r"(\{\d\})", template):
        if not part.startswith("{"):
            text += part
            continue
        box = int(part[1:-1])
        start = len(text)
        text += _phrase(things[box], rng)
        spans.append((start, len(text), box))
    return text, spans


def _phrase(thing: Any, rng: np.random.Generator) -> str:
    size = str(rng.choice(SIZES[thing.size])) if rng.random() < 0.5 else ""
    texture = thing.texture if thing.texture != "plain" and rng.random() < 0.6 else ""
    words = [size, texture, thing.colour, str(rng.choice(NAMES[thing.shape]))]
    named = " ".join(filter(None, words))
    article = "the" if rng.random() < 0.4 else "an" if named[0] in "aeiou" else "a"
    return f"{article} {named}"


def _relations(a: Any, b: Any) -> list[str]:
    """What is clearly true of a, seen from b."""
    found = []
    if abs(a.x - b.x) > CLEAR:
        found.append("left" if a.x < b.x else "right")
    if abs(a.y - b.y) > CLEAR:
        found.append("above" if a.y < b.y else "below")
    return found


def _say(a: Any, b: Any, rng: np.random.Generator) -> str:
    return str(rng.choice(RELATIONS[str(rng.choice(_relations(a, b)))]))


def _pick(things: Sequence[Any], count: int, rng: np.random.Generator) -> list[int]:
    return [int(k) for k in rng.permutation(len(things))[:count]]


def _relation(things: Sequence[Any], rng: np.random.Generator) -> str:
    a, b = _pick(things, 2, rng)
    return f"{{{a}}} {rng.choice(VERBS)} {_say(things[a], things[b], rng)} {{{b}}}"


def _chain(things: Sequence[Any], rng: np.random.Generator) -> str:
    a, b, c = _pick(things, 3, rng)
    first, second = _say(things[a], things[b], rng), _say(things[a], things[c], rng)
    if rng.random() < 0.5:
        return f"{{{a}}} {rng.choice(VERBS)} {first} {{{b}}} and {second} {{{c}}}"
    return f"there is {{{a}}} {first} {{{b}}} , and it is {second} {{{c}}}"


def _place(thing: Any, rng: np.random.Generator) -> str:
    return str(rng.choice(PLACES[3 * thing.cell[1] + thing.cell[0]]))


def _places(things: Sequence[Any], rng: np.random.Generator) -> str:
    a, b = _pick(things, 2, rng)
    link = rng.choice(("and", "while", "with"))
    return f"{{{a}}} {_place(things[a], rng)} {link} {{{b}}} {_place(things[b], rng)}"


def _order(things: Sequence[Any], rng: np.random.Generator) -> str:
    """Two or three objects named along one direction, where they are clearly apart in it."""
    ways = {
        "from left to right": lambda t: t.x,
        "from right to left": lambda t: -t.x,
        "from top to bottom": lambda t: t.y,
        "from bottom to top": lambda t: -t.y,
    }
    for way in rng.permutation(list(ways)):
        chosen = sorted(_pick(things, 3, rng), key=lambda k: ways[str(way)](things[k]))
        values = [ways[str(way)](things[k]) for k in chosen]
        if all(b - a > CLEAR for a, b in pairwise(values)):
            return f"{way} : {{{chosen[0]}}} , {{{chosen[1]}}} and {{{chosen[2]}}}"
    return _relation(things, rng)


def _relation_and_place(things: Sequence[Any], rng: np.random.Generator) -> str:
    a, b = _pick(things, 2, rng)
    relation = _say(things[a], things[b], rng)
    return f"{_place(things[b], rng)} {rng.choice(VERBS)} {{{b}}} , and {{{a}}} is {relation} it"
