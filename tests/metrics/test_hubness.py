"""Hubness against scipy; CSLS and inverted softmax against their definitions, fed in blocks."""

import numpy as np
import pytest
from scipy import special, stats

from jax_itm import metrics
from jax_itm.errors import UserError
from jax_itm.metrics import QuerySums, RetrievalCounter, TopCandidates


def made(images=9, each=2):
    rng = np.random.default_rng(0)
    return rng.normal(size=(images, each * images)).astype(np.float32), np.repeat(np.arange(images), each)


def test_hubness_counts_how_often_an_item_is_near():
    scores, caption_image = made()
    top = TopCandidates(*scores.shape, 3)
    for rows, columns in RetrievalCounter(caption_image).blocks(4):
        top.add(rows, columns, scores[rows, columns])
    occurrence = np.zeros(scores.shape[1])
    for row in scores:
        for caption in sorted(range(len(row)), key=lambda t: -row[t])[:3]:
            occurrence[caption] += 1
    actual = metrics.hubness(top.captions, scores.shape[1])
    np.testing.assert_allclose(actual["skewness"], stats.skew(occurrence))
    assert actual["max"] == occurrence.max()
    np.testing.assert_allclose(actual["never_retrieved"], 100 * np.mean(occurrence == 0))
    assert metrics.hubness(np.arange(4)[:, None], 4) == {"skewness": 0, "max": 1, "never_retrieved": 0}


def test_csls_is_its_definition():
    scores, caption_image = made()
    top = TopCandidates(*scores.shape, 3)
    for rows, columns in RetrievalCounter(caption_image).blocks(4):
        top.add(rows, columns, scores[rows, columns])
    actual = metrics.csls(
        scores, metrics.neighbour_mean(top.caption_scores), metrics.neighbour_mean(top.image_scores)
    )
    for i, t in np.ndindex(*scores.shape):
        r_image = np.mean(sorted(scores[i])[-3:])
        r_caption = np.mean(sorted(scores[:, t])[-3:])
        np.testing.assert_allclose(actual[i, t], 2 * scores[i, t] - r_image - r_caption, rtol=1e-5, atol=1e-6)


def test_csls_takes_a_hub_down():
    """One caption is near to all images: without CSLS it is everybody's first."""
    scores = 0.5 * np.eye(4, dtype=np.float32)
    scores[:, 0] = 0.6
    scores[0, 0] = 0.9
    plain = metrics.recall(scores, np.arange(4), ks=(1,))["i2t"]["r1"]
    nearest = np.sort(scores, axis=1)[:, -2:], np.sort(scores, axis=0)[-2:].T
    scaled = metrics.csls(scores, *map(metrics.neighbour_mean, nearest))
    assert (plain, metrics.recall(scaled, np.arange(4), ks=(1,))["i2t"]["r1"]) == (25, 100)


@pytest.mark.parametrize("temperature", [1e-3, 0.5])
def test_inverted_softmax_is_its_definition(temperature):
    scores, caption_image = made()
    sums = QuerySums(*scores.shape, temperature)
    for rows, columns in RetrievalCounter(caption_image).blocks(4):
        sums.add(rows, columns, scores[rows, columns])
    exact = scores.astype(np.float64) / temperature
    np.testing.assert_allclose(sums.captions, special.logsumexp(exact, axis=0), rtol=1e-6)
    np.testing.assert_allclose(sums.images, special.logsumexp(exact, axis=1), rtol=1e-6)
    by_image = metrics.inverted_softmax(scores, sums.captions, temperature)
    np.testing.assert_allclose(
        by_image, temperature * special.log_softmax(exact, axis=0), rtol=1e-5, atol=1e-6
    )
    by_caption = metrics.inverted_softmax(scores.T, sums.images, temperature)
    np.testing.assert_allclose(
        by_caption, temperature * special.log_softmax(exact.T, axis=0), rtol=1e-5, atol=1e-6
    )


def test_a_temperature_must_be_positive():
    with pytest.raises(UserError, match=r"temperature 0\.0: must be a finite number above 0"):
        QuerySums(1, 1, 0.0)
