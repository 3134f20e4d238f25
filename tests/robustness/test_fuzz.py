"""Files that nobody wrote: a mutated one is read correctly or refused in one line, whatever it holds.

The suite tries a few; pytest tests/test_fuzz.py --hypothesis-profile=long tries many, others each time.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import describe, open_split
from jax_itm.errors import UserError
from tests.helpers.layouts import LAYOUTS, Files, read_all, taken
from tests.helpers.mutate import MUTATIONS, mutated, tolerant


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Callable[[str], Files]:
    """The valid files of a layout."""
    known = {}

    def files(name: str) -> Files:
        if name not in known:
            folder = tmp_path_factory.mktemp(name) / "raw"
            LAYOUTS[name].write(folder)
            known[name] = taken(folder)
        return known[name]

    return files


def spoilt(files: Files, spared: tuple[str, ...], number: int, mutations: list) -> Files:
    names = [name for name in files if not name.endswith(spared)] if spared else list(files)
    name = names[number % len(names)]
    return files | {name: mutated(files[name], mutations)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_valid_files_are_read(valid, tmp_path, name):
    raw = LAYOUTS[name].read(LAYOUTS[name].build(tmp_path, valid(name)))
    read_all(raw)
    assert sum(1 for read in raw.splits.values() for _ in read()) >= 2


@pytest.mark.parametrize("name", LAYOUTS)
@given(number=st.integers(0, 99), mutations=MUTATIONS)
def test_readers(valid, name, number, mutations):
    layout = LAYOUTS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = layout.build(Path(place), spoilt(valid(name), layout.spared, number, mutations))
        tolerant(lambda: read_all(layout.read(folder)))


@settings(max_examples=max(5, settings().max_examples // 4))
@given(name=st.sampled_from(sorted(LAYOUTS)), number=st.integers(0, 99), mutations=MUTATIONS)
def test_prepare_writes_all_or_nothing(valid, name, number, mutations):
    layout = LAYOUTS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = layout.build(Path(place) / "raw", spoilt(valid(name), layout.spared, number, mutations))
        data, entities = Path(place) / "data", folder / "entities"
        try:
            prepare(layout.dataset, data, folder, entities if entities.exists() else None)
        except UserError:
            assert not list(data.rglob("*"))
            return
        facts = describe(layout.dataset, data)
        for split, counts in facts["splits"].items():
            view = "regions" if facts["regions"] else "pixels"
            opened = open_split(layout.dataset, data, split, view)
            records = [opened.record(k) for k in range(counts["images"])]
            assert [c for record in records for c in record["captions"]] == opened.captions()
