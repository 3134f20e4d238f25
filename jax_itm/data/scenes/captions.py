"""What is said of a generated scene: facts about its objects, put into words.

A *fact* has a clearness: at least 1 where nobody would deny it, at most `DENIED` where nobody would
claim it. A caption states one or two facts clear in its scene and names each object so that only one
object there answers to the name. Lengths are in units of the image's width, y points down.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import dist, inf
from typing import NamedTuple

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart", "moon", "arrow")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown")
TEXTURES = ("plain", "striped", "dotted", "checked")
TONES, KINDS = ("light", "dark"), ("plain", "shaded", "grainy", "tiled")  # of backgrounds

CAPTIONS, MIN_WORDS, MAX_WORDS = 5, 8, 20
DENIED = 0.2


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
    """Objects on a background of a tone and a kind."""

    things: tuple[Thing, ...]
    tone: str
    background: str


class Fact(NamedTuple):
    """A kind of `WORDS`, and the numbers of the objects that it is about, the subject first."""

    kind: str
    who: tuple[int, ...]


@dataclass(frozen=True)
class Caption:
    """A caption: its facts, what it says of each object, and its phrases (start, end, object)."""

    text: str
    facts: tuple[Fact, ...]
    names: dict[int, dict[str, str]]  # of each object, the attributes that are said
    phrases: tuple[tuple[int, int, int], ...]


WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
    "top left": ("at the top left", "in the upper left corner"),
    "top right": ("at the top right", "in the upper right corner"),
    "bottom left": ("at the bottom left", "in the lower left corner"),
    "bottom right": ("at the bottom right", "in the lower right corner"),
    "middle": ("in the middle", "at the centre"),
    "leftmost": ("leftmost",),
    "rightmost": ("rightmost",),
    "highest": ("highest", "topmost"),
    "lowest": ("lowest", "bottommost"),
    "nearest": ("nearest to", "closest to"),
    "between": ("between",),
}
RELATIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}  # directions
EXTREMES = dict(zip(("leftmost", "rightmost", "highest", "lowest"), RELATIONS.values(), strict=True))
CORNERS = {
    f"{vertical} {horizontal}": (dx, dy)
    for vertical, dy in (("top", -1), ("bottom", 1))
    for horizontal, dx in (("left", -1), ("right", 1))
}
# Sorts of facts: how often one is chosen (where there is one), of how many objects, the kinds.
SORTS = (
    (0.45, 2, tuple(RELATIONS)),
    (0.2, 1, (*CORNERS, "middle")),
    (0.13, 1, tuple(EXTREMES)),
    (0.11, 2, ("nearest",)),
    (0.11, 3, ("between",)),
)
VERBS, FRONTED = ("is", "sits", "lies"), ("is", "there is", "we see")
JOINTS, NOUNS = (" and ", ", and ", " while "), ("shape", "object")
SYNONYMS = {
    "circle": ("circle", "disc"),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus"),
    "moon": ("moon", "crescent"),
    "purple": ("purple", "violet"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big"),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "chequered"),
}
COUNTS = {3: "three", 4: "four", 5: "five", 6: "six"}


def clearness(fact: Fact, places: Sequence[tuple[float, float]]) -> float:
    """How clearly a fact holds of objects at these places: 1 and more does, `DENIED` and less not."""
    kind, (a, *others) = fact
    x, y = places[a]
    rest = [place for i, place in enumerate(places) if i != a]
    if kind in RELATIONS:
        dx, dy = RELATIONS[kind]
        u, v = places[others[0]]
        along, across = (x - u) * dx + (y - v) * dy, abs((x - u) * dy) + abs((y - v) * dx)
        return min(along / 0.15, along / (0.6 * across + 1e-9))
    if kind in CORNERS:
        dx, dy = CORNERS[kind]
        return min((x - 0.5) * dx, (y - 0.5) * dy) / 0.13
    if kind == "middle":
        return (0.26 - max(abs(x - 0.5), abs(y - 0.5))) / 0.13
    if kind in EXTREMES:
        dx, dy = EXTREMES[kind]
        return (x * dx + y * dy - max(u * dx + v * dy for u, v in rest)) / 0.06
    if kind == "nearest":  # of all objects, the subject to the other
        anchor = places[others[0]]
        far = [dist(anchor, p) for i, p in enumerate(places) if i not in (a, others[0])]
        return (min(far, default=inf) - dist(anchor, (x, y))) / 0.06
    (u, v), (s, t) = (places[i] for i in others)  # between
    length = dist((u, v), (s, t))
    along = ((x - u) * (s - u) + (y - v) * (t - v)) / length**2
    aside = abs((x - u) * (t - v) - (y - v) * (s - u)) / length
    return min((along - 0.05) / 0.2, (0.95 - along) / 0.2, (0.22 - aside) / 0.1)


def truth(facts: Sequence[Fact], names: dict[int, dict[str, str]], scene: Scene) -> float:
    """The clearness in `scene` of facts about objects of these attributes: of the best readings.

    -inf where no object of the scene answers to a name.
    """
    places = [(thing.x, thing.y) for thing in scene.things]
    best = -inf
    for chosen in product(*(_answering(name, scene) for name in names.values())):
        if len(set(chosen)) == len(chosen):
            to = dict(zip(names, chosen, strict=True))
            told = (Fact(fact.kind, tuple(to[i] for i in fact.who)) for fact in facts)
            best = max(best, min(clearness(fact, places) for fact in told))
    return best


def _answering(name: dict[str, str], scene: Scene) -> list[int]:
    return [
        i
        for i, thing in enumerate(scene.things)
        if all(getattr(thing, key) == value for key, value in name.items())
    ]


def describe(scene: Scene, others: Sequence[Scene], rng: np.random.Generator) -> list[Caption]:
    """Five captions, each clearly true of `scene` and clearly false of each of `others`."""
    told = _clear_facts(scene)
    captions: list[Caption] = []
    tries = 0
    while len(captions) < CAPTIONS:
        tries += 1
        facts, sentence = _sentence(told, rng)
        about = frozenset(i for fact in facts for i in fact.who)
        # Other objects in each caption, until there are no more of them: then other facts.
        if any(about == frozenset(c.names) if tries < 60 else set(facts) == set(c.facts) for c in captions):
            continue
        names = {i: _name(i, scene, rng) for i in sorted(about)}
        text, phrases = _worded(_framed(sentence, scene, rng), names, rng)
        if not MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            continue
        if all(truth(facts, names, other) <= DENIED for other in others):
            captions.append(Caption(text, facts, names, phrases))
    return captions


def _clear_facts(scene: Scene) -> list[list[Fact]]:
    """The facts clear in a scene, by the sorts of `SORTS`."""
    places = [(thing.x, thing.y) for thing in scene.things]
    return [
        [
            fact
            for kind in kinds
            for who in permutations(range(len(places)), objects)
            if clearness(fact := Fact(kind, who), places) >= 1
        ]
        for _, objects, kinds in SORTS
    ]


def _sentence(told: list[list[Fact]], rng: np.random.Generator) -> tuple[tuple[Fact, ...], str]:
    """One or two facts and a sentence of them, with {i} where object i is to be named."""
    first = _fact(told, rng)
    if first.kind in RELATIONS and rng.random() < 0.5:
        # "a is left of b and above c" or "a is left of b, which is above c"
        a, b = first.who
        subject, joint = ((a, " and"), (b, ", which is"))[rng.integers(2)]
        more = [fact for fact in told[0] if fact.who[0] == subject and set(fact.who) != {a, b}]
        if more:
            second = more[rng.integers(len(more))]
            words = [_pick(WORDS[fact.kind], rng) for fact in (first, second)]
            start = f"{{{a}}} {_pick(VERBS, rng)} {words[0]} {{{b}}}"
            return (first, second), f"{start}{joint} {words[1]} {{{second.who[1]}}}"
    if first.kind == "between" and rng.random() < 0.5:
        return (first,), _clause(first, rng)
    second = _fact(told, rng)
    while set(second.who) == set(first.who):
        second = _fact(told, rng)
    return (first, second), _pick(JOINTS, rng).join(_clause(fact, rng) for fact in (first, second))


def _fact(told: list[list[Fact]], rng: np.random.Generator) -> Fact:
    weights = np.cumsum([weight * bool(facts) for (weight, *_), facts in zip(SORTS, told, strict=True)])
    facts = told[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]
    return facts[rng.integers(len(facts))]


def _clause(fact: Fact, rng: np.random.Generator) -> str:
    """A fact in words, the subject first or last with equal chance."""
    a, *others = (f"{{{i}}}" for i in fact.who)
    words, fronted = _pick(WORDS[fact.kind], rng), rng.random() < 0.5
    if fact.kind in EXTREMES or fact.kind == "nearest":
        thing = _pick(NOUNS, rng)
        role = f"the {words} {thing}" if fact.kind in EXTREMES else f"the {thing} {words} {others[0]}"
        return f"{role} is {a}" if fronted else f"{a} is {role}"
    place = " ".join([words, " and ".join(others)]).strip()
    return f"{place} {_pick(FRONTED, rng)} {a}" if fronted else f"{a} {_pick(VERBS, rng)} {place}"


def _name(i: int, scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    """Attributes that object i alone has: mostly shape and colour, at times less, or more."""
    thing = scene.things[i]
    name = {"shape": thing.shape, "colour": thing.colour}
    if rng.random() < 0.15:
        left_out = _pick(("shape", "colour"), rng)
        shorter = {key: value for key, value in name.items() if key != left_out}
        name = shorter if len(_answering(shorter, scene)) == 1 else name
    if rng.random() < 0.25:
        name["size"] = thing.size
    if thing.texture != "plain" and rng.random() < 0.6:
        name["texture"] = thing.texture
    return name


def _framed(sentence: str, scene: Scene, rng: np.random.Generator) -> str:
    """A sentence with, at times, what is said of the whole picture."""
    kind = rng.choice(3, p=(0.7, 0.18, 0.12))
    if kind == 0:
        return sentence
    if kind == 1:
        return f"on a {scene.tone} {scene.background} background, {sentence}"
    return f"{COUNTS[len(scene.things)]} {_pick(NOUNS, rng)}s, {sentence}"


def _worded(
    sentence: str, names: dict[int, dict[str, str]], rng: np.random.Generator
) -> tuple[str, tuple[tuple[int, int, int], ...]]:
    """The sentence with the objects named, and (start, end, object) of each name."""
    text, phrases, known = "", [], set()
    for number, piece in enumerate(re.split(r"{(\d)}", sentence)):
        if number % 2:  # every other piece is an object
            i, again = int(piece), piece in known
            known.add(piece)
            # "a small striped red ring", and when it is named again "the red ring"
            keys = ("colour", "shape") if again else ("size", "texture", "colour", "shape")
            said = [names[i][key] for key in keys if key in names[i]]
            words = [_pick(SYNONYMS.get(word, (word,)), rng) for word in said]
            if "shape" not in names[i]:
                words.append(_pick(NOUNS, rng))
            article = "the" if again else "an" if words[0][0] in "aeiou" else "a"
            piece = " ".join([article, *words])
            phrases.append((len(text), len(text) + len(piece), i))
        text += piece
    return text, tuple(phrases)


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]
