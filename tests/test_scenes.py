"""Scenes are what they say: same seed, same scene; captions true; distractors share their words."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from jax_itm.data import scene_text, scenes

COUNT = 80


@pytest.fixture(scope="module")
def records():
    return [scenes.scene("train", index) for index in range(COUNT)]


def things(index):
    return scenes.arrange("train", index, 0)


def test_a_record_follows_from_seed_split_and_index(records):
    again = list(scenes.generate("train", 3, 0))[2]
    assert again["captions"] == records[2]["captions"]
    np.testing.assert_array_equal(again["image"], records[2]["image"])
    for other in (scenes.scene("train", 2, seed=1), scenes.scene("test", 2)):
        assert not np.array_equal(other["image"], records[2]["image"])


def test_a_record_has_the_shapes_it_promises(records):
    for record in records:
        count = len(record["boxes"])
        assert 3 <= count <= 6
        assert record["image"].shape == (96, 96, 3) and record["image"].dtype == np.uint8
        assert record["regions"].shape == (count, 432) and record["regions"].dtype == np.float16
        boxes = record["boxes"]
        assert np.all(boxes[:, :2] < boxes[:, 2:]) and np.all((boxes >= 0) & (boxes <= 1))
        assert len(set(record["captions"])) == 5


def test_phrases_name_the_object_in_their_box(records):
    for index, record in enumerate(records):
        assert len(record["phrases"]) >= 10
        for phrase in record["phrases"]:
            words = record["captions"][phrase["caption"]][phrase["start"] : phrase["end"]]
            thing = things(index)[phrase["box"]]
            assert thing.colour in words.split()
            assert any(words.endswith(name) for name in scene_text.NAMES[thing.shape])


def test_relations_are_true(records):
    """Reads '<phrase> .. <relation> <phrase>' back and looks at the boxes."""
    holds = {
        "left": lambda a, b: a[0] < b[0],
        "right": lambda a, b: a[0] > b[0],
        "above": lambda a, b: a[1] < b[1],
        "below": lambda a, b: a[1] > b[1],
    }
    meaning = {text: name for name, texts in scene_text.RELATIONS.items() for text in texts}
    between = re.compile(rf"^(?: {'| '.join(scene_text.VERBS)})? ({'|'.join(meaning)}) $")
    seen = Counter()
    for record in records:
        centres = (record["boxes"][:, :2] + record["boxes"][:, 2:]) / 2
        for number, caption in enumerate(record["captions"]):
            mentions = [p for p in record["phrases"] if p["caption"] == number]
            for one, two in itertools.pairwise(mentions):
                found = between.match(caption[one["end"] : two["start"]])
                if found:
                    name = meaning[found[1]]
                    seen[name] += 1
                    assert holds[name](centres[one["box"]], centres[two["box"]]), caption
    assert min(seen[name] for name in holds) > 15


def test_groups_share_their_objects_and_not_their_places():
    """A group of four: one layout, mirrored, two exchanged in place, two exchanged in colour."""
    shared = 0
    for first in range(0, COUNT, 4):
        words = [
            sorted(Counter(w for t in things(k) for w in (t.colour, t.shape)).items())
            for k in range(first, first + 4)
        ]
        if all(w == words[0] for w in words):
            shared += 1
            places = [{(t.colour, t.shape): t.cell for t in things(k)} for k in range(first, first + 4)]
            assert all(places[0] != other for other in places[1:])
    assert 5 <= shared <= 15  # about half of twenty


def test_a_bag_of_words_cannot_tell_some_captions_from_false_ones(records):
    """Exchanging the two objects of a relation gives a caption with the same words, and a false one."""
    same_words = 0
    for record in records:
        caption = record["captions"][0]
        one, two = (p for p in record["phrases"] if p["caption"] == 0)
        start, end = slice(one["start"], one["end"]), slice(two["start"], two["end"])
        false = caption[end] + caption[one["end"] : two["start"]] + caption[start]
        same_words += sorted(false.split()) == sorted(caption.split()) and false != caption
    assert same_words == len(records)


def test_the_vocabulary_is_small(records):
    words = {word for record in records for caption in record["captions"] for word in caption.split()}
    lengths = [len(caption.split()) for record in records for caption in record["captions"]]
    assert 50 < len(words) < 90 and max(lengths) <= 26
