"""Queries with many relevant items: against a loop, and against ECCV Caption's own package."""

import numpy as np
import pytest

from jax_itm import metrics
from jax_itm.errors import UserError
from jax_itm.metrics import TopRelevance
from tests.helpers.eccv import eccv_metrics


def made(seed, queries=7, items=11, dtype=np.float32):
    """Scores with ties, and up to six relevant items of all queries but number 2."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (queries, items)).astype(dtype)
    relevant = {q: rng.permutation(items)[: rng.integers(1, 7)].tolist() for q in range(queries) if q != 2}
    return scores, relevant


def in_blocks(scores, relevant, k, size=4):
    top = TopRelevance(relevant, scores.shape[1], k)
    for row in range(0, scores.shape[0], size):
        for column in range(0, scores.shape[1], size):
            rows, columns = slice(row, row + size), slice(column, min(column + size, scores.shape[1]))
            rows = slice(row, min(row + size, len(scores)))
            top.add(rows, columns, scores[rows, columns])
    return top


def loop(scores, relevant, ks):
    """Plain definitions over rankings in which what is not relevant comes first among equals."""
    numbers = {name: [] for name in ("map", "rp", *(f"hit{k}" for k in ks), *(f"all{k}" for k in ks))}
    for query, items in relevant.items():
        order = sorted(range(scores.shape[1]), key=lambda item: (-scores[query, item], item in items))
        found = [item in items for item in order]
        count = len(items)
        precisions = [sum(found[: r + 1]) / (r + 1) for r in range(count) if found[r]]
        numbers["map"].append(sum(precisions) / count)
        numbers["rp"].append(sum(found[:count]) / count)
        for k in ks:
            numbers[f"hit{k}"].append(any(found[:k]))
            numbers[f"all{k}"].append(sum(found[:k]) / count)
    return {name: 100 * np.mean(values) for name, values in numbers.items()}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_any_blocks_give_the_numbers_of_the_loop(seed, dtype):
    scores, relevant = made(seed, dtype=dtype)
    expected = loop(scores, relevant, (1, 5))
    for size in (3, 100):
        top = in_blocks(scores, relevant, 6, size)
        actual = {"map": metrics.map_at_r(top), "rp": metrics.r_precision(top)}
        actual |= {f"hit{k}": metrics.hit_rate(top, k) for k in (1, 5)}
        actual |= {f"all{k}": metrics.recall_of_all(top, k) for k in (1, 5)}
        for name, value in expected.items():
            np.testing.assert_allclose(actual[name], value, rtol=1e-12, err_msg=name)


def test_one_relevant_item_is_the_usual_recall():
    """Text to image, and the best caption from image to text, without the other captions as rivals."""
    rng = np.random.default_rng(0)
    caption_image = np.repeat(np.arange(9), 5)
    scores = rng.integers(0, 9, (9, 45)).astype(np.float32)
    usual = metrics.recall(scores, caption_image)
    texts = in_blocks(scores.T, {t: [int(i)] for t, i in enumerate(caption_image)}, 10)
    images = in_blocks(scores, {i: list(range(5 * i, 5 * i + 5)) for i in range(9)}, 10)
    for k in (1, 5, 10):
        assert metrics.hit_rate(texts, k) == metrics.recall_of_all(texts, k)
        np.testing.assert_allclose(metrics.hit_rate(texts, k), usual["t2i"][f"r{k}"])
        np.testing.assert_allclose(metrics.hit_rate(images, k), usual["i2t"][f"r{k}"])
    assert metrics.recalls_of_all(images)["all_relevant_r1"] <= 20  # one of five


def test_what_cannot_be_counted_is_an_error():
    top = TopRelevance({0: [0, 1, 2]}, 4, 2)
    with pytest.raises(UserError, match="not all finite"):
        top.add(slice(0, 1), slice(0, 4), np.array([[0, np.nan, 0, 0]]))
    top.add(slice(0, 1), slice(0, 4), np.zeros((1, 4)))
    with pytest.raises(ValueError, match="k=2, but a query has 3 relevant items"):
        metrics.map_at_r(top)


@pytest.fixture(scope="module")
def oracle():
    return eccv_metrics()


QUERIES = 300  # of a ground truth that are compared; the package takes 8 seconds for all


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
@pytest.mark.parametrize("name", ["eccv", "cxc"])
def test_the_numbers_of_the_package_of_eccv_caption(oracle, name, direction, monkeypatch):
    """Its class `Metrics` is the oracle, on made scores of COCO's images and captions."""
    captions = oracle.coco_ids.tolist()
    images = [oracle.coco_gts["t2i"][caption][0] for caption in captions[::5]]
    items = captions if direction == "i2t" else images
    number = {item: k for k, item in enumerate(items)}
    every = getattr(oracle, f"{name}_gts")[direction]
    gts = dict(list(every.items())[:QUERIES])
    queries = list(gts)
    relevant = {q: [number.get(x, -x) for x in gts[item]] for q, item in enumerate(queries)}
    scores = made_scores(relevant, len(items))
    top = TopRelevance(relevant, len(items), 48)
    for start in range(0, len(items), 4000):
        columns = slice(start, min(start + 4000, len(items)))
        top.add(slice(0, QUERIES), columns, scores[:, columns])
    ranking = {q: [items[k] for k in np.argsort(-scores[row])] for row, q in enumerate(queries)}
    monkeypatch.setattr(oracle, f"{name}_gts", {direction: gts})
    recalls = getattr(oracle, f"{name}_recalls")
    for k in (1, 5, 10):
        expected = recalls({direction: ranking}, direction, k)[direction]
        assert 0 < expected < 1
        np.testing.assert_allclose(metrics.hit_rate(top, k), 100 * expected)
    if name == "eccv":
        expected = oracle.eccv_metrics({direction: ranking}, direction)
        np.testing.assert_allclose(metrics.map_at_r(top), 100 * expected["eccv_map_at_r"][direction])
        np.testing.assert_allclose(metrics.r_precision(top), 100 * expected["eccv_rprecision"][direction])
        np.testing.assert_allclose(metrics.hit_rate(top, 1), 100 * expected["eccv_r1"][direction])


def made_scores(relevant, items):
    """Random scores (queries, items), higher for many of the relevant pairs; no two of a row are equal."""
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(items) / items, (len(relevant), 1)), axis=1)
    for query, numbers in relevant.items():
        columns = [item for item in numbers if item >= 0]
        scores[query, columns] += rng.normal(0, 0.5, len(columns))
    return scores.astype(np.float32)


def test_relevant_items_that_are_not_there_are_missed():
    """ECCV Caption names two captions of COCO that are not among the 25,000."""
    top = TopRelevance({0: [0, -1, -7]}, 4, 3)
    top.add(slice(0, 1), slice(0, 4), np.array([[3.0, 2.0, 1.0, 0.0]]))
    assert top.count == [3]
    assert metrics.r_precision(top) == metrics.map_at_r(top) == pytest.approx(100 / 3)
