"""The page of error messages is what the source says, and the advice is on messages that there are."""

import re

import pytest

from jax_itm.config import default
from jax_itm.config.advice import ADVICE
from jax_itm.config.load import check
from jax_itm.config.messages import errors_page, messages, messages_of
from jax_itm.errors import UserError
from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def texts():
    return [text for modules in messages().values() for own in modules.values() for text in own]


def test_the_page_is_what_the_source_says():
    text = (ROOT / "docs" / "errors.md").read_text()
    assert text == errors_page(), "python -m jax_itm.config.messages > docs/errors.md"


def test_the_advice_is_on_messages_that_there_are(texts):
    assert len(ADVICE) >= 20
    assert not set(ADVICE) - set(texts)
    assert not [text for text in ADVICE if "|" in text]  # which would end a cell of the table


def test_a_message_that_is_raised_is_on_the_page(texts):
    config = default("info_nce")
    config.batch_size, config.micro_batches = 10, 3
    with pytest.raises(UserError) as raised:
        check(config)
    patterns = [re.sub(r"<[^<>]*>", ".+", re.escape(text).replace("\\ ", " ")) for text in texts]
    found = [
        text
        for text, pattern in zip(texts, patterns, strict=True)
        if re.fullmatch(pattern, str(raised.value))
    ]
    assert "config.micro_batches=<micro batches>: does not divide config.batch_size=<batch size>" in found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise UserError(f'{path}: no {names[0]!r}')", ["<path>: no <names>"]),
        (
            "raise UserError(f'{a.max_words}' ' words' + f' of {len(rows):,}')",
            ["<max words> words of <number of rows>"],
        ),
        ("raise UserError('one of ' + ', '.join(sorted(KINDS)))", ["one of <KINDS, ..>"]),
        ("raise UserError(f'{type(x).__name__}{nearest(x, xs)}')", ["<x>; did you mean <name>?"]),
        ("raise UserError('none' if not x else f'{len(x)} of them')", ["none", "<number of x> of them"]),
        ("raise HTTPException(400, 'too long')", ["too long"]),
        ("raise UserError(str(error)) from error", []),
        ("raise KeyError('inside')", []),
        ("bad.append(UserError(f'{where}: cut'))", ["<where>: cut"]),
    ],
)
def test_messages_are_read_with_names_for_values(source, expected):
    assert list(messages_of(source)) == expected
