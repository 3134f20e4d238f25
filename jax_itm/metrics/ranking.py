"""From ranks to recalls.

    rank = 1 + items strictly better + *other* items exactly equal

so that a tie never helps. Image to text counts the best of an image's captions against all captions of other
images; text to image has one correct image. Recall@K is the percentage of ranks up to K.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

KS = (1, 5, 10)


class Ranks(NamedTuple):
    """Integers from 1 in both directions.

    Attributes:
        i2t: (images,), the rank of every image's best caption.
        t2i: (captions,), the rank of every caption's image.
    """

    i2t: np.ndarray
    t2i: np.ndarray


def summary(ranks: Ranks, ks: Sequence[int] = KS) -> dict[str, Any]:
    """Recall@K, median and mean rank in both directions.

    Args:
        ranks: of all images and captions.
        ks: the K of Recall@K.

    Returns:
        {"i2t": {"r1", "r5", "r10", "medr", "meanr"}, "t2i": {..}, "rsum"}. Recalls are percentages; rSum is
        the sum of all of them.

    Example:
        >>> summary(Ranks(np.array([1, 2, 6, 11]), np.array([1, 1])), ks=(1, 5))["i2t"]
        {'r1': 25.0, 'r5': 50.0, 'medr': 4.0, 'meanr': 5.0}
    """
    directions = {name: _direction(rank, ks) for name, rank in ranks._asdict().items()}
    return directions | {"rsum": sum(numbers[f"r{k}"] for numbers in directions.values() for k in ks)}


def mean_summary(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of every number of several summaries, such as those of COCO's folds."""
    mean = lambda values: float(np.mean(list(values)))
    directions = {
        direction: {name: mean(one[direction][name] for one in summaries) for name in summaries[0][direction]}
        for direction in Ranks._fields
    }
    return directions | {"rsum": mean(one["rsum"] for one in summaries)}


def _direction(rank: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    recalls = {f"r{k}": 100 * float(np.mean(rank <= k)) for k in ks}
    return recalls | {"medr": float(np.median(rank)), "meanr": float(np.mean(rank))}
