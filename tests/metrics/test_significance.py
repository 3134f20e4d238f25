"""Intervals and tests over queries, against plain loops and against data whose truth is known."""

import numpy as np
import pytest

from jax_itm.metrics import Ranks, differences, intervals, summary
from jax_itm.metrics.significance import NAMES

CAPTION_IMAGE = np.repeat(np.arange(120), [1, 2, 3, 4, 5] * 24)


def ranks(seed: int, best: float = 0.5) -> Ranks:
    """Made ranks, better for a larger `best`; the captions of an image depend on one another."""
    rng = np.random.default_rng(seed)
    ease = rng.beta(best, 0.5, len(set(CAPTION_IMAGE)))
    draw = lambda ease: rng.geometric(np.clip(ease, 0.02, 1))
    return Ranks(draw(ease), draw(ease[CAPTION_IMAGE]))


def plain(each: Ranks) -> list[float]:
    result = summary(each)
    numbers = [result[side][f"r{k}"] for side in ("i2t", "t2i") for k in (1, 5, 10)]
    return [*numbers, sum(numbers)]


def drawn(each: Ranks, images: np.ndarray) -> Ranks:
    """The ranks of drawn images, each with its captions."""
    captions = [np.flatnonzero(image == CAPTION_IMAGE) for image in images]
    return Ranks(each.i2t[images], each.t2i[np.concatenate(captions)])


def test_intervals_are_those_of_a_plain_loop():
    rng = np.random.default_rng(1)
    runs = [ranks(2), ranks(3), ranks(4)]
    values = []
    for _ in range(1500):
        images = rng.integers(0, 120, 120)
        chosen = rng.integers(0, 3, 2)  # one run less than there are
        values.append(np.mean([plain(drawn(runs[run], images)) for run in chosen], axis=0))
    expected = np.quantile(values, [0.025, 0.975], axis=0).T
    found = intervals(runs, CAPTION_IMAGE, draws=4000)
    width = expected[:, 1] - expected[:, 0]
    for name, ends, size in zip(NAMES, expected, width, strict=True):
        np.testing.assert_allclose(found[name], ends, atol=0.1 * size)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Recall of independent queries whose rate is known."""
    rng = np.random.default_rng(5)
    covered = []
    for trial in range(200):
        hits = rng.random((2, 150)) < 0.6
        each = Ranks(*np.where(hits, 1, 99))
        low, high = intervals([each], np.arange(150), draws=300, seed=trial)["i2t R@1"]
        covered.append(low <= 60 <= high)
    assert 0.89 < np.mean(covered) < 0.99


def test_differences_are_paired():
    """Two settings that differ in few queries: the interval is far narrower than each one's own."""
    first = ranks(6)
    i2t = first.i2t.copy()
    i2t[np.flatnonzero(i2t > 10)[:12]] = 1
    second = Ranks(i2t, first.t2i)
    found = differences([first], [second], CAPTION_IMAGE)
    np.testing.assert_allclose([found[name].first for name in NAMES], plain(first))
    np.testing.assert_allclose([found[name].second for name in NAMES], plain(second))
    low, high = found["i2t R@1"].interval
    own = intervals([first], CAPTION_IMAGE)["i2t R@1"]
    assert 0 < low < 10 < high and high - low < 0.75 * (own.high - own.low)
    assert found["i2t R@1"].p < 0.005
    assert found["t2i R@1"] == (found["t2i R@1"].first, found["t2i R@1"].first, (0, 0), 1)


def test_p_is_uniform_where_nothing_differs():
    """Settings that are swapped query by query at random: p is below 0.1 in about a tenth of the trials."""
    ps = []
    for trial in range(80):
        one, other = ranks(100 + trial), ranks(1000 + trial)
        swap = np.random.default_rng(trial).random(120) < 0.5
        pick = lambda a, b, swap=swap: Ranks(
            np.where(swap, a.i2t, b.i2t), np.where(swap[CAPTION_IMAGE], a.t2i, b.t2i)
        )
        ps.append(differences([pick(one, other)], [pick(other, one)], CAPTION_IMAGE, draws=10)["rSum"].p)
    assert 0.02 < np.mean(np.array(ps) < 0.1) < 0.22
    assert 0.35 < np.mean(ps) < 0.65


def test_seeds_enter_the_interval():
    """Runs that differ among themselves widen it, though every query is the same in each draw."""
    runs = [ranks(7, best) for best in (0.3, 0.5, 0.9)]
    alike = differences([runs[1]] * 3, [runs[1]] * 3, CAPTION_IMAGE)["rSum"]
    assert alike.interval == (0, 0) and alike.p == 1
    spread = differences([runs[1]] * 3, runs, CAPTION_IMAGE)["rSum"].interval
    single = differences([runs[1]], [runs[1]], CAPTION_IMAGE)["rSum"].interval
    assert spread.high - spread.low > 20 + single.high - single.low


def test_runs_of_one_seed_are_drawn_together():
    """Seeds that move both settings alike do not widen the interval of the difference."""
    runs = [ranks(7, best) for best in (0.3, 0.5, 0.9)]
    together = differences(runs, runs, CAPTION_IMAGE, same_seeds=True)["rSum"]
    apart = differences(runs, runs, CAPTION_IMAGE)["rSum"]
    assert together.interval == (0, 0)
    assert apart.interval.low < -10 and apart.interval.high > 10
    with pytest.raises(ValueError, match="same_seeds: 3 runs and 2"):
        differences(runs, runs[:2], CAPTION_IMAGE, same_seeds=True)


def test_ranks_of_other_captions_are_refused():
    with pytest.raises(ValueError, match="do not fit caption_image"):
        intervals([ranks(1)], CAPTION_IMAGE[:-1])
