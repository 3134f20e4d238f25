"""Tokenizers: what they cut, number and keep."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jax_itm.data.tokenizer import SPECIAL, Tokenizer
from jax_itm.errors import UserError

CAPTIONS = ["A dog runs .", "A dog jumps over a log .", "Two cats, one café !", "a dog"] * 3


@pytest.mark.parametrize("kind", ["words", "wordpiece"])
def test_encode(kind):
    tokenizer = Tokenizer.fit(CAPTIONS, kind)
    ids, mask = tokenizer.encode(["A dog runs .", "a dog", ""], 8)
    assert ids.shape == mask.shape == (3, 8)
    assert ids.dtype == np.int32 and mask.dtype == bool
    np.testing.assert_array_equal(mask.sum(1), [6, 4, 2])
    assert np.all(ids[~mask] == 0) and np.all(ids[mask] > 0)
    start, end = ids[2, :2]
    assert np.all(ids[:, 0] == start) and ids[0, 5] == end and ids[1, 3] == end
    assert ids[0, 2] == ids[1, 2] and ids.max() < len(tokenizer)


def test_truncation_keeps_the_end():
    tokenizer = Tokenizer.fit(CAPTIONS)
    long, _ = tokenizer.encode(["a dog jumps over a log ."], 20)
    ids, mask = tokenizer.encode(["a dog jumps over a log ."], 5)
    np.testing.assert_array_equal(ids[0], [*long[0, :4], long[0, 8]])
    assert mask.all()


def test_case_accents_and_punctuation():
    tokenizer = Tokenizer.fit(CAPTIONS)
    a, _ = tokenizer.encode(["Two CATS, one Café!"], 9)
    b, _ = tokenizer.encode(["two cats , one cafe !"], 9)
    np.testing.assert_array_equal(a, b)


def test_min_count_and_vocab_size():
    captions = ["red red red blue blue green"]
    assert len(Tokenizer.fit(captions)) == 4 + 3
    assert len(Tokenizer.fit(captions, min_count=2)) == 4 + 2
    smallest = Tokenizer.fit(captions, vocab_size=5)
    ids, _ = smallest.encode(["red green"], 4)
    assert len(smallest) == 5 and ids[0, 1] == 4 and ids[0, 2] == 1  # green is [UNK]


@pytest.mark.parametrize("options", [{"min_count": 4}, {"vocab_size": 4}])
def test_a_vocabulary_without_a_word_is_refused(options):
    with pytest.raises(UserError, match=r"config\.data\.min_count=.*leave no word") as error:
        Tokenizer.fit(["red red red blue blue green"], **options)
    assert "\n" not in str(error.value)


def test_word_pieces_spell_unseen_words():
    tokenizer = Tokenizer.fit(CAPTIONS, "wordpiece")
    ids, mask = tokenizer.encode(["dogs"], 8)
    assert 1 not in ids[mask] and mask.sum() > 3


@pytest.mark.parametrize("kind", ["words", "wordpiece"])
def test_json_keeps_all(kind):
    tokenizer = Tokenizer.fit(CAPTIONS, kind)
    again = Tokenizer.from_json(tokenizer.to_json())
    assert len(again) == len(tokenizer) and again.to_json() == tokenizer.to_json()
    for a, b in zip(again.encode(CAPTIONS, 12), tokenizer.encode(CAPTIONS, 12), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fit_is_the_same_in_every_process():
    # Hosts fit on their own: hash maps must not number their pieces differently.
    captions = [f"{a}{b}{a} {b}{a}" for a in "abcdefghij" for b in "klmnopqrst"]
    code = (
        "from jax_itm.data.tokenizer import Tokenizer;"
        f"print(*(Tokenizer.fit({captions!r}, kind, 1, 90).to_json() for kind in ('words', 'wordpiece')))"
    )
    runs = {subprocess.check_output([sys.executable, "-c", code]) for _ in range(3)}
    assert len(runs) == 1


def test_errors():
    with pytest.raises(UserError, match=r"config\.data\.tokenizer='letters'"):
        Tokenizer.fit(CAPTIONS, "letters")
    with pytest.raises(UserError, match="not a tokenizer"):
        Tokenizer.from_json("{}")
    lacking = Tokenizer.fit(CAPTIONS).to_json().replace("[SEP]", "[END]")
    with pytest.raises(UserError, match=r"\[SEP\]"):
        Tokenizer.from_json(lacking)


# BERT's special tokens do not follow each other.
PIECES = [
    "[PAD]",
    "[unused1]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "A",
    "Dog",
    "dog",
    "a",
    "run",
    "##s",
    ".",
    "é",
    "e",
]


def write_vocab(folder, pieces):
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return str(folder / "vocab.txt")


def test_berts_vocabulary(tmp_path):
    path = write_vocab(tmp_path, PIECES)
    cased, uncased = Tokenizer.from_vocab(path, lower=False), Tokenizer.from_vocab(path, lower=True)
    words = lambda tokenizer, text: [PIECES[k] for k in tokenizer.encode([text], 12)[0][0] if k][1:-1]
    assert words(cased, "A Dog runs.") == ["A", "Dog", "run", "##s", "."]
    assert words(uncased, "A Dog runs.") == ["a", "dog", "run", "##s", "."]
    assert words(cased, "é") == ["é"] and words(uncased, "É") == ["e"]
    assert words(cased, "a\x00 cat\tA") == ["a", "[UNK]", "A"]
    assert words(cased, "run" + "s" * 97)[:2] == ["run", "##s"]
    assert words(cased, "run" + "s" * 98) == ["[UNK]"]  # more than 100 letters
    again = Tokenizer.from_json(cased.to_json())
    assert words(again, "A é") == ["A", "é"] and len(again) == len(PIECES)


VOCAB = [*SPECIAL, "möchte", "mochte", "Möchte", "zwei", "Hunde", "hunde", "中", "文", "中文", "##文", "##ä"]


def words_of(folder, caption="Möchte zwei Hunde 中文"):
    tokenizer = Tokenizer.from_folder(folder)
    return [VOCAB[k] for k in tokenizer.encode([caption], 12)[0][0] if k][1:-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["mochte", "zwei", "hunde", "中", "文"]),
        ({"strip_accents": None}, ["mochte", "zwei", "hunde", "中", "文"]),
        ({"strip_accents": False}, ["möchte", "zwei", "hunde", "中", "文"]),
        ({"do_lower_case": False}, ["Möchte", "zwei", "Hunde", "中", "文"]),
        ({"do_lower_case": False, "strip_accents": True}, ["[UNK]", "zwei", "Hunde", "中", "文"]),  # Mochte
        ({"tokenize_chinese_chars": False}, ["mochte", "zwei", "hunde", "中文"]),
        ({"unk_token": {"content": "[UNK]"}, "never_split": None}, ["mochte", "zwei", "hunde", "中", "文"]),
    ],
)
def test_options_of_a_published_tokenizer(tmp_path, options, words):
    """From vocab.txt, and where tokenizer.json says otherwise than tokenizer_config.json."""
    write_vocab(tmp_path, VOCAB)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    assert words_of(tmp_path) == words
    uncased = Tokenizer.from_vocab(str(tmp_path / "vocab.txt"), lower=True)
    (tmp_path / "tokenizer.json").write_text(uncased.to_json())
    assert words_of(tmp_path) == ["mochte", "zwei", "hunde", "中", "文"]
    options = {"tokenizer_class": "BertTokenizer"} | options
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    assert words_of(tmp_path) == words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strip_accents": "no"}, "strip_accents is 'no', must be true or false"),
        ({"do_lower_case": None}, "do_lower_case is None, must be true or false"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize is False, the tokenizers here need True"),
        ({"never_split": ["zwei"]}, r"never_split is \['zwei'\]"),
        ({"truncation_side": "left"}, "truncation_side is 'left'"),
        ({"unk_token": "<unk>"}, "unk_token is '<unk>'"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class is 'BertJapaneseTokenizer'"),
        ({"added_tokens_decoder": {"15": {"content": "[IMG]"}}}, r"'\[IMG\]' was added as 15"),
        ({"added_tokens_decoder": {"4": {"content": "zwei"}}}, "'zwei' was added as 4"),
        ({"added_tokens_decoder": [1]}, r"added_tokens_decoder is \[1\], must be a table"),
    ],
)
def test_options_that_ask_for_other_ids_are_refused(tmp_path, options, message):
    write_vocab(tmp_path, VOCAB)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    with pytest.raises(UserError, match=message) as error:
        Tokenizer.from_folder(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_added_tokens_beside_a_vocabulary(tmp_path):
    write_vocab(tmp_path, VOCAB)
    known = {"0": {"content": "[PAD]"}, "4": {"content": "möchte"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": known}))
    assert words_of(tmp_path, "zwei") == ["zwei"]
    (tmp_path / "added_tokens.json").write_text('{"[NEW]": 99}')
    with pytest.raises(UserError, match=r"'\[NEW\]' was added as 99"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "pieces, message",
    [
        ([*PIECES, "Dog"], r"'Dog' is in line 7 and again later"),
        ([p for p in PIECES if p != "[SEP]"], r"needs the tokens .*\[SEP\]"),
        (PIECES[1:] + PIECES[:1], r"\[PAD\] in line 1"),
    ],
)
def test_wrong_vocabularies(tmp_path, pieces, message):
    with pytest.raises(UserError, match=message):
        Tokenizer.from_vocab(write_vocab(tmp_path, pieces), lower=False)


def test_vocabulary_of_another_encoding(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        Tokenizer.from_vocab(str(tmp_path / "vocab.txt"), lower=False)
