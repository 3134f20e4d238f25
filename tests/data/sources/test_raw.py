"""Which captions and names of images are taken, and how: any script, nothing that no file can hold."""

import json

import pytest

from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.data.sources.raw import caption, image_name
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from tests.helpers.pictures import write_folder

KEPT = {
    " A dog. \n": "A dog.",
    "A\tdog\nruns\x00\x1b[31m": "A dog runs  [31m",
    "كلب يركض \u200fفوق": "كلب يركض \u200fفوق",
    "\u202eA dog": "\u202eA dog",
    "👩\u200d👩\u200d👧 e\u0301": "👩\u200d👩\u200d👧 e\u0301",
    "one\u2028two": "one\u2028two",
    "!?": "!?",
    "dog " * 10_000: "dog " * 9_999 + "dog",
}
REFUSED = {
    "": "empty",
    " \t\0\x1b": "empty",
    "\u200b\u202e\ufeff": "empty",
    "A \ud83d": "half of a surrogate",
}


@pytest.mark.parametrize("text", KEPT)
def test_captions_that_are_kept(text):
    assert caption(text, "a") == KEPT[text] == caption(KEPT[text], "a")


@pytest.mark.parametrize("text", [*REFUSED, None, 3, ["A"]])
def test_captions_that_are_refused(text):
    message = REFUSED.get(text, "half of a surrogate") if isinstance(text, str) else "must be text"
    with pytest.raises(UserError, match=f"a.csv:3: .*{message}"):
        caption(text, "a.csv:3")


@pytest.mark.parametrize("name", ["a\0.jpg", "a\n.jpg", "a\ud800.jpg", "a" * 2000, "", " ", None])
def test_names_that_no_file_has(name):
    with pytest.raises(UserError):
        image_name(name, "a.csv:3")


def test_captions_travel_whole(tmp_path):
    """Into a prepared set and out of it, and through both tokenizers."""
    folder = write_folder(tmp_path / "raw")
    rows = [{"path": "0.jpg", "caption": text} for text in KEPT]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("folder", tmp_path / "data", folder)
    split = open_split("folder", tmp_path / "data", "train", "pixels")
    assert split.captions() == split.record(0)["captions"] == list(KEPT.values())
    for kind in ("words", "wordpiece"):
        ids, mask = Tokenizer.fit(KEPT.values(), kind).encode(list(KEPT.values()), 8)
        assert ids.shape == (len(KEPT), 8) and mask[:, :3].all() and mask[-1].all()


def test_an_error_is_one_line_that_commands_no_terminal():
    message = str(UserError("a\x1b[2J\n\u202eb" + "c" * 5000))
    assert message.startswith(r"a\x1b[2J\n\u202ebcc") and message.isprintable() and len(message) < 1100
