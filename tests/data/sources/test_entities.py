"""Flickr30k Entities: phrases and boxes of pictures and of regions."""

import numpy as np
import pytest

from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.evaluation.isd import phrase_masks
from tests.helpers.entities import CAPTIONS, THINGS, annotate, flickr30k, thing
from tests.helpers.precomp import BOXES, write_precomp


def test_pictures_get_the_annotated_boxes(tmp_path):
    entities = annotate(tmp_path / "entities", "012")
    facts = prepare("flickr30k", tmp_path / "data", flickr30k(tmp_path / "raw"), entities)
    assert facts["features"] == ["image", "boxes", "phrases"]
    assert facts["tally"] == {
        "captions with a sentence": 6,
        "captions without one": 3,
        "phrases": 9,
        "phrases without a box": 6,
    }
    split = open_split("flickr30k", tmp_path / "data", "test", "pixels")
    phrases = split.phrases(0)
    words = [CAPTIONS[p["caption"]][p["start"] : p["end"]] for p in phrases]
    assert words == ["Two men", "Two men", "red hats", "a third man"]
    assert [p["box"] for p in phrases] == [0, 1, 0, 2]
    with pytest.raises(UserError, match=r"--entities .*raw: .* was prepared from .*entities; choose"):
        prepare("flickr30k", tmp_path / "data", entities=tmp_path / "raw")


def regions(raw, ids=("7.jpg", "8.jpg"), captions=CAPTIONS):
    write_precomp(raw, ("test",), images=2, each=3)
    (raw / "test_ids.txt").write_text("".join(f"{name}\n" for name in ids))
    (raw / "test_caps.txt").write_text("\n".join([*captions, *captions]) + "\n")
    return raw


def test_regions_of_the_highest_overlap(tmp_path):
    """BOXES: the left half, the right half, the whole. The third man's box overlaps none by more than 0.5."""
    entities = annotate(tmp_path / "entities", "78")
    facts = prepare("precomp", tmp_path / "data", regions(tmp_path / "raw"), entities)
    assert facts["features"] == ["regions", "boxes", "phrases"]
    assert facts["tally"]["phrases"] == 4 and facts["tally"]["phrases without a box"] == 6
    split = open_split("precomp", tmp_path / "data", "test", "regions")
    np.testing.assert_array_equal(split.record(1)["boxes"], BOXES)
    assert split.phrases(1) == [
        {"caption": 0, "start": 0, "end": 7, "box": 0},
        {"caption": 0, "start": 0, "end": 7, "box": 1},
        {"caption": 0, "start": 11, "end": 19, "box": 0},
    ]


def test_isd_takes_a_phrase_of_several_boxes_as_one(tmp_path):
    entities = annotate(tmp_path / "entities", "78")
    prepare("precomp", tmp_path / "data", regions(tmp_path / "raw"), entities)
    split = open_split("precomp", tmp_path / "data", "test", "regions")
    masks = phrase_masks(Tokenizer.fit(split.captions()), split, np.array([0, 3]), 12, 3)
    for row in range(2):
        assert [np.flatnonzero(of).tolist() for of in masks.words[row, :3]] == [[1, 2], [4, 5], []]
        assert [np.flatnonzero(of).tolist() for of in masks.regions[row, :3]] == [[0, 1], [0], []]


WRONG = thing("1", box=(50, 0, 10, 10))
FAULTS = {
    "sentences": ({"names": "7"}, r"Sentences/8\.txt: cannot be read"),
    "marks": ({"sentences": "[/EN#1/people Two men in a hat .\n"}, r"7\.txt:1: a phrase must be \[/EN#CHAIN"),
    "others": ({"sentences": "A dog .\n"}, "Sentences: no caption of test is among the sentences"),
    "xml": ({"things": ["<object>"]}, r"7\.xml: not an annotation of Flickr30k Entities \(mismatched"),
    "number": ({"things": [thing("1", box=("a", 0, 1, 1))]}, r"7\.xml: not an annotation .*'a'"),
    "order": (
        {"things": [*THINGS, WRONG]},
        r"7\.xml: bndbox 3 is not xmin ymin xmax ymax: \[50, 0, 10, 10\]",
    ),
    "size": ({"size": (0, 100)}, r"7\.xml: bndbox 0 is not .* of \[0, 100\]"),
    "no size": ({"size": ("", 100)}, r"7\.xml: not an annotation"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refuses(tmp_path, fault):
    changes, message = FAULTS[fault]
    entities = annotate(tmp_path / "entities", **({"names": "78"} | changes))
    refuses_entities(tmp_path, regions(tmp_path / "raw"), entities, message)


def test_refuses_sets_that_cannot_have_phrases(tmp_path):
    raw = regions(tmp_path / "raw")
    refuses_entities(tmp_path, raw, tmp_path / "none", r"--entities .*none: no such file")
    refuses_entities(tmp_path, raw, raw, r"--entities .*raw: no folder Sentences: unpack annotations\.zip")
    entities = annotate(tmp_path / "entities", "78")
    (raw / "boxes.npy").unlink()
    refuses_entities(tmp_path, raw, entities, "the set has regions without boxes")
    with pytest.raises(UserError, match=r"--entities .*: scenes is generated"):
        prepare("scenes", tmp_path / "data", entities=entities)


def refuses_entities(tmp_path, raw, entities, message):
    with pytest.raises(UserError, match=message) as caught:
        prepare("precomp", tmp_path / "data", raw, entities)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()
