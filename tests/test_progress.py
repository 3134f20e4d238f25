"""Progress is shown to who waits, in lines with the time left, and to nobody else."""

import re

import pytest

from jax_itm import progress


@pytest.fixture
def clock(monkeypatch):
    """Each item takes four seconds."""
    now = [0.0]

    def items(count):
        for k in range(count):
            yield k
            now[0] += 4.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return items


def test_lines_say_how_far_and_how_long(clock, capsys):
    with progress.shown():
        assert list(progress.track(clock(10), 10, "encoding images")) == list(range(10))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "encoding images: 1 of 10, 0:00:36 left"
    line = r"encoding images: \d of 10, 0:00:\d\d left"
    assert len(lines) == 3 and all(re.fullmatch(line, each) for each in lines)


def test_where_nobody_knows_how_many_there_are(clock, capsys):
    with progress.shown():
        assert len(list(progress.track(clock(10), 0, "writing train"))) == 10
    assert capsys.readouterr().err.splitlines()[0] == "writing train: 1"


def test_what_is_soon_over_says_nothing(monkeypatch, capsys):
    with progress.shown():
        assert list(progress.track(iter("abc"), 3, "reading")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_the_library_is_silent(clock, capsys):
    assert list(progress.track(clock(10), 10, "encoding images")) == list(range(10))
    assert capsys.readouterr() == ("", "")


def test_a_bar_in_a_terminal(clock, monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress.shown():
        assert list(progress.track(clock(4), 4, "scoring")) == [0, 1, 2, 3]
    assert capsys.readouterr().out == ""
