"""Captions of a generated scene: facts about its objects, put into words.

A caption states one or two facts that are clear in its scene, and names each object so that only that object
of the scene matches the name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jax_itm.data.scenes.scene import (
    DENIED,
    EXTREMES,
    RELATIONS,
    SORTS,
    Fact,
    Name,
    Scene,
    clear_facts,
    matching,
    truth,
)

CAPTIONS = 5  # of an image
MIN_WORDS = 8
MAX_WORDS = 20
ATTEMPTS = 60  # at a caption about other objects than all before it

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
VERBS = ("is", "sits", "lies")  # after the subject
FRONTED = ("is", "there is", "we see")  # before the subject
JOINTS = (" and ", ", and ", " while ")
NOUNS = ("shape", "object")
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


@dataclass(frozen=True)
class Caption:
    """A caption.

    Attributes:
        text: the caption.
        facts: what it states.
        names: the attributes that it states of each object.
        phrases: (start, end, object) of the characters that name an object.
    """

    text: str
    facts: tuple[Fact, ...]
    names: dict[int, Name]
    phrases: tuple[tuple[int, int, int], ...]


def describe(scene: Scene, others: Sequence[Scene], rng: np.random.Generator) -> list[Caption]:
    """Five captions, each clearly true of `scene` and clearly false of each of `others`."""
    clear = clear_facts(scene)
    captions: list[Caption] = []
    attempts = 0
    while len(captions) < CAPTIONS:
        attempts += 1
        facts, sentence = _sentence(clear, rng)
        about = frozenset(i for fact in facts for i in fact.who)
        # About other objects than any caption before; when there are no more of these, with other facts.
        if attempts < ATTEMPTS:
            repeated = any(about == frozenset(caption.names) for caption in captions)
        else:
            repeated = any(set(facts) == set(caption.facts) for caption in captions)
        if repeated:
            continue
        names = {i: _name(i, scene, rng) for i in sorted(about)}
        text, phrases = _fill_in(_with_setting(sentence, scene, rng), names, rng)
        if not MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            continue
        if all(truth(facts, names, other) <= DENIED for other in others):
            captions.append(Caption(text, facts, names, phrases))
    return captions


def _sentence(clear: list[list[Fact]], rng: np.random.Generator) -> tuple[tuple[Fact, ...], str]:
    """One or two facts and a sentence about them, with {i} where object i is to be named."""
    first = _choose_fact(clear, rng)
    if first.kind in RELATIONS and rng.random() < 0.5:
        # "a is left of b and above c" or "a is left of b, which is above c"
        a, b = first.who
        subject, joint = ((a, " and"), (b, ", which is"))[rng.integers(2)]
        more = [fact for fact in clear[0] if fact.who[0] == subject and set(fact.who) != {a, b}]
        if more:
            second = more[rng.integers(len(more))]
            words = [_choose(WORDS[fact.kind], rng) for fact in (first, second)]
            start = f"{{{a}}} {_choose(VERBS, rng)} {words[0]} {{{b}}}"
            return (first, second), f"{start}{joint} {words[1]} {{{second.who[1]}}}"
    if first.kind == "between" and rng.random() < 0.5:
        return (first,), _clause(first, rng)
    second = _choose_fact(clear, rng)
    while set(second.who) == set(first.who):
        second = _choose_fact(clear, rng)
    return (first, second), _choose(JOINTS, rng).join(_clause(fact, rng) for fact in (first, second))


def _choose_fact(clear: list[list[Fact]], rng: np.random.Generator) -> Fact:
    """A random fact, of a random sort among those that have one."""
    weights = np.cumsum([sort.weight * bool(facts) for sort, facts in zip(SORTS, clear, strict=True)])
    facts = clear[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]
    return facts[rng.integers(len(facts))]


def _clause(fact: Fact, rng: np.random.Generator) -> str:
    """A fact in words, the subject first or last with equal probability."""
    a, *others = (f"{{{i}}}" for i in fact.who)
    words = _choose(WORDS[fact.kind], rng)
    fronted = rng.random() < 0.5
    if fact.kind in EXTREMES or fact.kind == "nearest":
        noun = _choose(NOUNS, rng)
        role = f"the {words} {noun}" if fact.kind in EXTREMES else f"the {noun} {words} {others[0]}"
        return f"{role} is {a}" if fronted else f"{a} is {role}"
    position = " ".join([words, " and ".join(others)]).strip()
    return f"{position} {_choose(FRONTED, rng)} {a}" if fronted else f"{a} {_choose(VERBS, rng)} {position}"


def _name(i: int, scene: Scene, rng: np.random.Generator) -> Name:
    """Attributes that only object i has: usually its shape and colour, at times fewer or more."""
    thing = scene.things[i]
    name = {"shape": thing.shape, "colour": thing.colour}
    if rng.random() < 0.15:
        omitted = _choose(("shape", "colour"), rng)
        shorter = {attribute: value for attribute, value in name.items() if attribute != omitted}
        name = shorter if len(matching(shorter, scene)) == 1 else name
    if rng.random() < 0.25:
        name["size"] = thing.size
    if thing.texture != "plain" and rng.random() < 0.6:
        name["texture"] = thing.texture
    return name


def _with_setting(sentence: str, scene: Scene, rng: np.random.Generator) -> str:
    """A sentence, at times with a remark on the background or on the number of objects."""
    kind = rng.choice(3, p=(0.7, 0.18, 0.12))
    if kind == 0:
        return sentence
    if kind == 1:
        return f"on a {scene.tone} {scene.background} background, {sentence}"
    return f"{COUNTS[len(scene.things)]} {_choose(NOUNS, rng)}s, {sentence}"


def _fill_in(
    sentence: str, names: dict[int, Name], rng: np.random.Generator
) -> tuple[str, tuple[tuple[int, int, int], ...]]:
    """The sentence with its objects named, and (start, end, object) of each name."""
    text = ""
    phrases = []
    mentioned = set()
    for number, piece in enumerate(re.split(r"{(\d)}", sentence)):
        if number % 2:  # every other piece is the number of an object
            i = int(piece)
            again = piece in mentioned
            mentioned.add(piece)
            # "a small striped red ring", and from the second time on "the red ring"
            attributes = ("colour", "shape") if again else ("size", "texture", "colour", "shape")
            values = [names[i][attribute] for attribute in attributes if attribute in names[i]]
            words = [_choose(SYNONYMS.get(value, (value,)), rng) for value in values]
            if "shape" not in names[i]:
                words.append(_choose(NOUNS, rng))
            article = "the" if again else "an" if words[0][0] in "aeiou" else "a"
            piece = " ".join([article, *words])
            phrases.append((len(text), len(text) + len(piece), i))
        text += piece
    return text, tuple(phrases)


def _choose(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]
