"""Confidence of a recall, and of a difference: the bootstrap and a permutation test over queries.

The captions of one image succeed or fail together, so images are resampled, each with its captions: a
cluster bootstrap. Several runs of one setting, of different seeds, are drawn too.

    B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 15; J. Rao and C. Wu,
    "Resampling Inference With Complex Survey Data", JASA 1988, for drawing one run less than there are.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jax_itm.metrics.ranking import KS, Ranks

LEVEL = 0.95
DRAWS = 2000
FLIPS = 10_000  # of the permutation test: its smallest p is 1 / (FLIPS + 1)
CHUNK = 250  # draws that are held at once
NAMES = (*(f"i2t R@{k}" for k in KS), *(f"t2i R@{k}" for k in KS), "rSum")


class Interval(NamedTuple):
    """The two ends of a confidence interval, in percentage points."""

    low: float
    high: float


class Difference(NamedTuple):
    """One metric of two settings.

    Attributes:
        first: the mean of the first setting's runs.
        second: that of the second's.
        interval: of second - first, for other queries and other seeds.
        p: of the permutation test that both settings, as these runs have them, answer queries equally well.
    """

    first: float
    second: float
    interval: Interval
    p: float


class _Hits(NamedTuple):
    """What each image adds to the recalls: hits (images, 6) of itself and its captions, and their number."""

    hits: np.ndarray
    captions: np.ndarray


def intervals(
    runs: Sequence[Ranks], caption_image: np.ndarray, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> dict[str, Interval]:
    """The bootstrap interval of each recall and of rSum, of the mean of several runs.

    Args:
        runs: the ranks of one run, or of runs that differ in their seed alone.
        caption_image: int (captions,), the image of each caption.
        level: share of the draws inside the interval.
        draws: of images, with replacement.
        seed: of the draws.

    Returns:
        {"i2t R@1": Interval, .., "rSum": Interval}, percentile intervals.

    Example:
        >>> import numpy as np
        >>> from jax_itm.metrics import Ranks, intervals
        >>> ranks = Ranks(np.array([1, 1, 1, 20] * 25), np.array([1, 2, 1, 20] * 25))
        >>> low, high = intervals([ranks], np.arange(100))["i2t R@1"]
        >>> 60 < low < 75 < high < 90
        True
    """
    hits = [_hits(ranks, caption_image) for ranks in runs]
    values = np.concatenate([_metrics(hits, *draw) for draw in _draws([hits], draws, seed)])
    return dict(zip(NAMES, _percentiles(values, level), strict=True))


def differences(
    first: Sequence[Ranks],
    second: Sequence[Ranks],
    caption_image: np.ndarray,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
    same_seeds: bool = False,
) -> dict[str, Difference]:
    """Each recall and rSum of two settings on the same queries: a paired comparison.

    Both see the same images in each draw. With one run each, the interval is that of other queries alone, and
    says nothing of other seeds.

    Args:
        first: the ranks of the first setting's runs.
        second: of the second's.
        caption_image: int (captions,), the image of each caption.
        level, draws, seed: as for `intervals`.
        same_seeds: whether run k of both settings has one seed, and so the same initial values and batches:
            they are drawn together then. Otherwise the runs of the two settings are drawn apart.

    Returns:
        {"i2t R@1": Difference, .., "rSum": Difference}.

    Example:
        >>> import numpy as np
        >>> from jax_itm.metrics import Ranks, differences
        >>> bad, good = Ranks(np.full(50, 3), np.full(50, 3)), Ranks(np.full(50, 1), np.full(50, 1))
        >>> found = differences([bad], [good], np.arange(50))["rSum"]
        >>> found.first, found.second, found.p < 0.001
        (400.0, 600.0, True)
    """
    sides = [[_hits(ranks, caption_image) for ranks in runs] for runs in (first, second)]
    changes = []
    if same_seeds and len(first) != len(second):
        raise ValueError(f"same_seeds: {len(first)} runs and {len(second)}")
    for images, of_first, of_second in _draws(sides, draws, seed):
        of_second = of_first if same_seeds else of_second
        changes.append(_metrics(sides[1], images, of_second) - _metrics(sides[0], images, of_first))
    ends = _percentiles(np.concatenate(changes), level)
    images = np.ones((1, len(sides[0][0].captions)))
    means = [_metrics(hits, images, np.ones((1, len(hits))))[0] for hits in sides]
    p = _permutation(sides[0], sides[1], seed)
    return {
        name: Difference(float(means[0][k]), float(means[1][k]), ends[k], float(p[k]))
        for k, name in enumerate(NAMES)
    }


def _hits(ranks: Ranks, caption_image: np.ndarray) -> _Hits:
    images = len(ranks.i2t)
    if len(ranks.t2i) != len(caption_image) or np.any(np.unique(caption_image) != np.arange(images)):
        raise ValueError(f"ranks of {images} images and {len(ranks.t2i)} captions do not fit caption_image")
    columns = [(ranks.i2t <= k).astype(float) for k in KS]
    columns += [np.bincount(caption_image, ranks.t2i <= k, images) for k in KS]
    return _Hits(np.stack(columns, axis=1), np.bincount(caption_image, minlength=images).astype(float))


def _draws(sides: Sequence[Sequence[_Hits]], draws: int, seed: int) -> Iterator[tuple[np.ndarray, ...]]:
    """How often each image is drawn (chunk, images), and each run of every side (chunk, runs)."""
    rng = np.random.default_rng(seed)
    images = len(sides[0][0].captions)
    for start in range(0, draws, CHUNK):
        count = min(CHUNK, draws - start)
        drawn = rng.multinomial(images, np.full(images, 1 / images), count).astype(float)
        runs = [
            rng.multinomial(max(len(side) - 1, 1), np.full(len(side), 1 / len(side)), count) for side in sides
        ]
        yield drawn, *(each.astype(float) for each in runs)


def _metrics(hits: Sequence[_Hits], images: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """The mean metrics (draws, 7) of runs, their images and themselves weighted as drawn."""
    mean = np.zeros((len(images), len(NAMES) - 1))
    for run, weight in zip(hits, runs.T, strict=True):
        mean += images @ run.hits * (weight / runs.sum(axis=1))[:, None]
    queries = np.repeat([images.sum(axis=1), images @ hits[0].captions], len(KS), axis=0).T
    recalls = 100 * mean / queries
    return np.column_stack([recalls, recalls.sum(axis=1)])


def _percentiles(values: np.ndarray, level: float) -> list[Interval]:
    ends = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Interval(float(low), float(high)) for low, high in ends.T]


def _permutation(first: Sequence[_Hits], second: Sequence[_Hits], seed: int) -> np.ndarray:
    """The two-sided p (7,): how often settings that are swapped image by image differ as much."""
    mean = lambda side: np.mean([run.hits for run in side], axis=0)
    captions = first[0].captions
    queries = np.repeat([float(len(captions)), captions.sum()], len(KS))
    changes = 100 * (mean(second) - mean(first)) / queries
    changes = np.column_stack([changes, changes.sum(axis=1)])
    observed = np.abs(changes.sum(axis=0))
    rng = np.random.default_rng(seed)
    at_least = np.zeros(len(NAMES))
    for _ in range(FLIPS // CHUNK):
        signs = rng.choice([-1.0, 1.0], (CHUNK, len(changes)))
        at_least += np.sum(np.abs(signs @ changes) >= observed - 1e-9, axis=0)
    return (1 + at_least) / (1 + FLIPS)
