"""Mutated raw files: each is either read correctly or refused in one line, whatever it contains.

The suite tries a few; `pytest tests/robustness/test_fuzz.py --hypothesis-profile=long` tries many, and
different ones each time.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import VERSION, describe, open_split
from jax_itm.errors import UserError
from tests.helpers.layouts import LAYOUTS, Files, read_all, read_files
from tests.helpers.mutate import MUTATIONS, allow_user_error, mutated


@pytest.fixture(scope="module")
def valid_files(tmp_path_factory) -> Callable[[str], Files]:
    """The valid files of a layout."""

    @functools.cache
    def files(name: str) -> Files:
        folder = tmp_path_factory.mktemp(name) / "raw"
        LAYOUTS[name].write(folder)
        return read_files(folder)

    return files


def mutate_one(files: Files, spared: tuple[str, ...], number: int, mutations: list) -> Files:
    names = [name for name in files if not name.endswith(spared)] if spared else list(files)
    name = names[number % len(names)]
    return files | {name: mutated(files[name], mutations)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_valid_files_are_read(valid_files, tmp_path, name):
    raw = LAYOUTS[name].read(LAYOUTS[name].build(tmp_path, valid_files(name)))
    read_all(raw)
    assert sum(1 for read in raw.splits.values() for _ in read()) >= 2


@pytest.mark.parametrize("name", LAYOUTS)
@given(number=st.integers(0, 99), mutations=MUTATIONS)
def test_readers(valid_files, name, number, mutations):
    layout = LAYOUTS[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = layout.build(
            Path(temporary), mutate_one(valid_files(name), layout.spared, number, mutations)
        )
        allow_user_error(lambda: read_all(layout.read(folder)))


@settings(max_examples=max(5, settings().max_examples // 4))
@given(name=st.sampled_from(sorted(LAYOUTS)), number=st.integers(0, 99), mutations=MUTATIONS)
def test_prepare_writes_all_or_nothing(valid_files, name, number, mutations):
    layout = LAYOUTS[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = layout.build(
            Path(temporary) / "raw", mutate_one(valid_files(name), layout.spared, number, mutations)
        )
        data, entities = Path(temporary) / "data", folder / "entities"
        try:
            prepare(layout.dataset, data, folder, entities if entities.exists() else None)
        except UserError:
            # Of a set in shards, the raw files that are finished stay for the next call.
            assert layout.is_in_shards or not list(data.rglob("*"))
            assert not (data / layout.dataset / VERSION).exists()
            return
        facts = describe(layout.dataset, data)
        for split, counts in facts["splits"].items():
            modality = "regions" if facts["regions"] else "pixels"
            opened = open_split(layout.dataset, data, split, modality)
            try:
                records = [opened.record(k) for k in range(counts["images"])]
            except UserError:  # a picture that was damaged inside, where pictures are not decoded beforehand
                assert layout.is_in_shards
                continue
            assert [c for record in records for c in record["captions"]] == opened.captions()
