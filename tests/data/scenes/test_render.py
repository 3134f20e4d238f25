"""Scenes follow from their seed, their captions are true, and distractors share their words."""

import itertools
import re
from collections import Counter
from dataclasses import astuple

import numpy as np
import pytest

from jax_itm.data.scenes import captions, render, scene
from jax_itm.data.scenes.captions import describe
from jax_itm.data.scenes.drawing import RGB
from jax_itm.data.scenes.scene import DENIED, truth
from jax_itm.errors import UserError

COUNT = 80


@pytest.fixture(scope="module")
def records():
    return [render.scene("train", index) for index in range(COUNT)]


def group(index):
    first = index - index % render.GROUP
    return {i: render.plan("train", i) for i in range(first, first + render.GROUP)}


def captions_in_groups():
    """(caption, its scene, its distractors) of every image that has distractors."""
    for index in filter(render.has_distractors, range(COUNT)):
        plans = group(index)
        own = plans.pop(index)
        others = list(plans.values())
        for caption in describe(own, others, np.random.default_rng(index)):
            yield caption, own, others


def test_a_record_follows_from_seed_split_and_index(records):
    again = list(render.generate("train", 3, 0))[2]
    assert again["captions"] == records[2]["captions"] and again["phrases"] == records[2]["phrases"]
    np.testing.assert_array_equal(again["image"], records[2]["image"])
    for other in (render.scene("train", 2, seed=1), render.scene("test", 2)):
        assert not np.array_equal(other["image"], records[2]["image"])
    with pytest.raises(UserError, match="no split 'dev'; there are train, val, test"):
        render.scene("dev", 0)


def test_a_record_has_the_shapes_it_promises(records):
    for record in records:
        boxes, count = record["boxes"], len(record["boxes"])
        assert 3 <= count <= 6 and boxes.dtype == np.float32
        assert record["image"].shape == (96, 96, 3) and record["image"].dtype == np.uint8
        assert record["regions"].shape == (count, 432) and record["regions"].dtype == np.float16
        assert np.all(boxes[:, :2] < boxes[:, 2:]) and np.all((boxes >= 0) & (boxes <= 1))
        assert len(set(record["captions"])) == 5


def test_boxes_hold_the_objects(records):
    """Inside a box's middle the picture is, but for texture and hole, of the object's colour."""
    for index, record in enumerate(records):
        for box, thing in zip(record["boxes"], render.plan("train", index).things, strict=True):
            np.testing.assert_allclose((box[:2] + box[2:]) / 2, (thing.x, thing.y), atol=0.03)
            if thing.texture == "plain" and thing.shape not in ("ring", "moon"):
                x, y = (96 * (box[:2] + box[2:]) / 2).astype(int)
                np.testing.assert_allclose(record["image"][y, x], RGB[thing.colour], atol=32)


def test_phrases_name_the_object_in_their_box(records):
    for index, record in enumerate(records):
        things = render.plan("train", index).things
        for phrase in record["phrases"]:
            words = record["captions"][phrase["caption"]][phrase["start"] : phrase["end"]].split()
            thing = things[phrase["box"]]
            synonyms = [captions.SYNONYMS.get(word, (word,)) for word in (thing.shape, thing.colour)]
            assert words[0] in ("a", "an", "the") and any(
                word in options for options in synonyms for word in words
            )


def test_relations_are_true_of_the_boxes(records):
    """Reads "<phrase> is left of <phrase>" and "left of <phrase> is <phrase>" back."""
    meaning = {text: kind for kind in scene.RELATIONS for text in captions.WORDS[kind]}
    relation = "|".join(sorted(meaning, key=len, reverse=True))
    plain = re.compile(rf" (?:{'|'.join(captions.VERBS)}) ({relation}) ")
    fronted = re.compile(rf"(?:^|.* )({relation}) $")
    linked = re.compile(rf" (?:{'|'.join(captions.FRONTED)}) ")
    seen = Counter()
    for record in records:
        centres = (record["boxes"][:, :2] + record["boxes"][:, 2:]) / 2
        for number, caption in enumerate(record["captions"]):
            spans = [p for p in record["phrases"] if p["caption"] == number]
            ends = [0, *(p["end"] for p in spans)]
            for end, one, two in zip(ends, spans, spans[1:], strict=False):
                between = caption[one["end"] : two["start"]]
                before = fronted.match(caption[end : one["start"]])
                if match := plain.fullmatch(between):
                    kind, a, b = meaning[match[1]], one["box"], two["box"]
                elif linked.fullmatch(between) and before:
                    kind, a, b = meaning[before[1]], two["box"], one["box"]
                else:
                    continue
                seen[kind] += 1
                assert (centres[a] - centres[b]) @ scene.RELATIONS[kind] > 0.1, caption
    assert min(seen[kind] for kind in scene.RELATIONS) > 15


@pytest.mark.parametrize(
    "fact, yes, no",
    [
        (("right", (0, 1)), [(0.8, 0.5), (0.5, 0.6)], [(0.5, 0.6), (0.8, 0.5)]),
        (("below", (0, 1)), [(0.5, 0.8), (0.5, 0.5)], [(0.5, 0.2), (0.5, 0.5)]),
        (("top right", (0,)), [(0.8, 0.2)], [(0.8, 0.5)]),
        (("middle", (0,)), [(0.5, 0.55)], [(0.5, 0.8)]),
        (("lowest", (1,)), [(0.2, 0.2), (0.3, 0.7), (0.6, 0.6)], [(0.2, 0.9), (0.3, 0.7), (0.6, 0.6)]),
        (("nearest", (0, 1)), [(0.3, 0.3), (0.5, 0.3), (0.9, 0.3)], [(0.2, 0.3), (0.5, 0.3), (0.7, 0.3)]),
        (("between", (0, 1, 2)), [(0.5, 0.5), (0.2, 0.4), (0.8, 0.6)], [(0.2, 0.4), (0.5, 0.5), (0.8, 0.6)]),
    ],
)
def test_a_fact_is_clear_where_it_holds_and_denied_where_not(fact, yes, no):
    fact = scene.Fact(*fact)
    assert scene.clearness(fact, yes) >= 1 and scene.clearness(fact, no) <= DENIED


def test_captions_are_true_of_their_image_and_false_of_its_distractors():
    for caption, own, others in captions_in_groups():
        assert truth(caption.facts, caption.names, own) >= 1
        assert all(truth(caption.facts, caption.names, other) <= DENIED for other in others), caption.text


def test_a_group_shares_its_objects_or_their_shapes_and_colours():
    kinds = Counter()
    for first in range(0, COUNT, 2 * render.GROUP):
        plans = list(group(first).values())
        looks = [sorted(astuple(thing)[:4] for thing in plan.things) for plan in plans]
        words = [sorted(w for thing in plan.things for w in astuple(thing)[:4]) for plan in plans]
        assert all(w == words[0] for w in words) and len({p.things for p in plans}) == render.GROUP
        kinds["places" if all(look == looks[0] for look in looks) else "colours"] += 1
    assert kinds["places"] >= 2 and kinds["colours"] >= 2


def test_a_bag_of_words_cannot_tell_most_captions_of_a_group():
    """Other names in the same words' places: often a caption clearly true of a distractor."""
    is_fooled = []
    for caption, _, others in captions_in_groups():
        names = list(caption.names.values())
        orders = list(itertools.permutations(names))
        if all("colour" in name for name in names):  # the colours alone change places
            orders += [
                [{**name, "colour": other["colour"]} for name, other in zip(names, order, strict=True)]
                for order in itertools.permutations(names)
            ]
        readings = (dict(zip(caption.names, order, strict=True)) for order in orders)
        is_fooled.append(any(truth(caption.facts, r, o) >= 1 for r in readings for o in others))
    assert np.mean(is_fooled) > 0.5


def test_captions_are_short_and_their_words_few(records):
    captions = [caption for record in records for caption in record["captions"]]
    words = Counter(re.findall(r"\w+", " ".join(captions)))
    assert 70 < len(words) < 110
    assert all(8 <= len(caption.split()) <= 20 for caption in captions)
