"""Approximate search, made small: its recall against exact search, what follows a change, and refusals."""

import importlib.util

import numpy as np
import pytest

from jax_itm.cli.main import main
from jax_itm.errors import UserError
from jax_itm.search import approximate
from jax_itm.search import index as index_module
from jax_itm.search.approximate import ApproximateNearest, divided, recall
from jax_itm.search.build import make_index
from jax_itm.search.index import SearchIndex
from jax_itm.search.nearest import ExactNearest
from tests.helpers.pictures import picture
from tests.helpers.searching import make, untrained_clip

pytest.importorskip("faiss", reason="needs the package faiss-cpu")


def clustered(count: int, dim: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, dim))[rng.integers(20, size=count)] + 0.3 * rng.normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_more_lists_find_more_and_all_lists_find_all():
    vectors = clustered(3000)
    ids = np.arange(3000, dtype=np.int64) + 7
    queries = vectors[:50]
    exact = ExactNearest(ids, vectors).search(queries, 10)
    index = divided(ids, vectors)
    shares = []
    for probes in (1, 8, index.nlist):
        found = ApproximateNearest(index, probes).search(queries, 10)
        shares.append(recall(found.ids, exact.ids))
    assert shares == sorted(shares) and shares[0] < 0.99 and shares[2] == 1
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-5)


def test_recall_counts_what_was_found():
    assert recall(np.array([[1, 2, -1], [4, 5, 6]]), np.array([[2, 3, 1], [4, 5, 6]])) == pytest.approx(5 / 6)


def test_a_large_index_is_searched_approximately(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(approximate, "EXACT_UP_TO", 20)
    monkeypatch.setattr(index_module, "EXACT_UP_TO", 20)
    run = untrained_clip(tmp_path)
    folder = make(tmp_path, run, count=30)
    images = tmp_path / "pictures"
    index = SearchIndex(folder)
    assert isinstance(index._pictures, ApproximateNearest)
    found = index.pictures_for_text("a dog", 30)
    ids, vectors = index.store.vectors("picture")
    query = np.asarray(index.matcher.encode_texts(["a dog"]))
    best = ExactNearest(ids, vectors).search(query, 3).ids[0].tolist()
    assert [hit.id for hit in found][:1] == best[:1] and len(found) <= 30
    picture(99).save(images / "new.png")
    capsys.readouterr()
    command = ["index", "--workdir", run, "--images", str(images), "--out", str(folder)]
    assert main(command) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("approximate search: a query reads ") and line.endswith("of 6 captions")
    index = SearchIndex(folder)
    assert index.pictures_for_image(index.pixels(images / "new.png"), 1)[0].name == "new.png"
    (folder / approximate.FILE).unlink()  # an open index reads the file that it was opened with
    (folder / approximate.FILE).write_bytes(b"IwFl" + b"\xff" * 50)
    with pytest.raises(UserError, match=r"nearest\.faiss: damaged"):
        SearchIndex(folder)
    (folder / approximate.FILE).unlink()
    with pytest.raises(UserError, match="unfinished; run `python -m jax_itm index` to its end"):
        SearchIndex(folder)
    make_index(folder, run, images)
    assert SearchIndex(folder).pictures_for_text("a dog", 3)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "faiss" else find(name))
    with pytest.raises(UserError, match=r"faiss-cpu: pip install -e \.\[search\]"):
        SearchIndex(folder)
