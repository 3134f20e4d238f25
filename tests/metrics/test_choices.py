"""Choices among a few, parts of the queries, and agreement with ratings: against loops and scipy."""

import numpy as np
import pytest
from scipy import stats

from jax_itm import metrics
from jax_itm.errors import UserError


def test_group_scores_are_winogrounds():
    """Its four comparisons, for two images and two texts, with ties among them."""
    scores = np.random.default_rng(0).integers(0, 4, (200, 2, 2)).astype(float)
    text, image, group = [], [], []
    for (a, b), (c, d) in scores:  # a: image 0 with text 0, b: image 0 with text 1
        text.append(a > b and d > c)
        image.append(a > c and d > b)
        group.append(text[-1] and image[-1])
    actual = metrics.group_scores(scores)
    assert (actual["text"], actual["image"]) == (100 * np.mean(text), 100 * np.mean(image))
    assert actual["group"] == 100 * np.mean(group) > 0


def test_group_scores_of_four():
    scores = np.random.default_rng(1).normal(size=(30, 4, 4)) + 2 * np.eye(4)
    best_text = [[np.argmax(group[i]) == i for i in range(4)] for group in scores]
    best_image = [[np.argmax(group[:, t]) == t for t in range(4)] for group in scores]
    actual = metrics.group_scores(scores)
    assert actual["text_choice"] == pytest.approx(100 * np.mean(best_text))
    assert actual["image_choice"] == pytest.approx(100 * np.mean(best_image))
    assert (
        0
        < actual["group"]
        == pytest.approx(
            100 * np.mean([all(t) and all(i) for t, i in zip(best_text, best_image, strict=True)])
        )
    )
    assert set(metrics.group_scores(np.zeros((3, 4, 4))).values()) == {0.0}  # ties are no choices


def test_accuracy_of_classes():
    scores = np.random.default_rng(2).integers(0, 5, (60, 7)).astype(float)
    labels = np.random.default_rng(3).integers(0, 7, 60)
    ranks = [sum(row >= row[label]) for row, label in zip(scores, labels, strict=True)]
    assert metrics.class_ranks(scores, labels).tolist() == ranks
    actual = metrics.top_accuracy(np.array(ranks), labels, 7)
    assert actual["top1"] == pytest.approx(100 * np.mean(np.array(ranks) == 1))
    assert actual["top5"] == pytest.approx(100 * np.mean(np.array(ranks) <= 5))
    each = [np.mean([r == 1 for r, x in zip(ranks, labels, strict=True) if x == c]) for c in set(labels)]
    assert actual["mean_per_class"] == pytest.approx(100 * np.mean(each))
    assert "top5" not in metrics.top_accuracy(np.ones(60, int), labels % 3, 3)


def test_correlations_are_those_of_every_pair():
    """Kendall's tau by counting pairs (Kendall 1945; Stuart 1953), Spearman's by the ranks."""
    rng = np.random.default_rng(4)
    scores, ratings = rng.integers(0, 20, 40).astype(float), rng.integers(1, 5, 40)
    signs = [
        (np.sign(scores[i] - scores[j]), np.sign(ratings[i] - ratings[j]))
        for i in range(40)
        for j in range(i)
    ]
    agree = sum(a * b for a, b in signs)
    untied = [sum(bool(pair[side]) for pair in signs) for side in (0, 1)]
    fewest = min(len(set(scores)), len(set(ratings)))
    actual = metrics.correlations(scores, ratings)
    assert actual["kendall_tau_b"] == pytest.approx(agree / np.sqrt(untied[0] * untied[1]))
    assert actual["kendall_tau_c"] == pytest.approx(2 * agree / (40**2 * (fewest - 1) / fewest))
    ranked = [stats.rankdata(x) for x in (scores, ratings)]
    assert actual["spearman"] == pytest.approx(np.corrcoef(*ranked)[0, 1])
    with pytest.raises(UserError, match="all of 3 scores or ratings are equal"):
        metrics.correlations(np.arange(3.0), np.ones(3))


def test_a_breakdown_covers_every_query_once():
    ranks = np.random.default_rng(5).integers(1, 30, 100)
    captions = [" ".join("w" * n) for n in np.random.default_rng(6).integers(1, 40, 100)]
    labels = metrics.length_labels(captions)
    parts = metrics.by_label(ranks, labels)
    assert sum(part["queries"] for part in parts.values()) == 100
    total = sum(part["queries"] * part["r5"] for part in parts.values()) / 100
    assert total == pytest.approx(100 * np.mean(ranks <= 5))
    ends = {len(c.split()): label for c, label in zip(captions, labels, strict=True)}
    assert ends[8] == "01-08 words" and ends[9] == "09-11 words" and ends[21] == "21 words or more"
    assert list(ranks[metrics.worst(ranks, 5)]) == sorted(ranks, reverse=True)[:5]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: metrics.first_is_best(x),
        lambda x: metrics.group_scores(x[None]),
        lambda x: metrics.class_ranks(x, np.array([0, 1])),
        lambda x: metrics.correlations(x.ravel(), np.arange(4)),
    ],
)
def test_scores_that_are_not_finite_are_errors(function):
    with pytest.raises(UserError, match="not all finite"):
        function(np.array([[1.0, np.nan], [0.0, 2.0]]))
