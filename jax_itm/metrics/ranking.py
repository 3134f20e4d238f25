"""The rule of ranks and ties, and from ranks to recalls.

    rank = 1 + items strictly better + *other* items exactly equal

so that a tie never helps: `compare` counts, `rank` adds the 1. Image to text counts the best of an image's
captions against all captions of other images; text to image has one correct image. Recall@K is the percentage
of ranks up to K.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

KS = (1, 5, 10)


class Counts(NamedTuple):
    """What one block adds to the ranks.

    Attributes:
        rows: (i,), the negatives of each image that score at least as high as its best positive.
        columns: (t,), the negatives of each caption that score at least as high as its positive.
        finite: whether all scores are finite.
    """

    rows: Any
    columns: Any
    finite: Any


def compare(
    scores: Any, best_positive: Any, own_positive: Any, image: Any = None, caption_image: Any = None
) -> Counts:
    """Counts the negatives in a block that score at least as high as the positives.

    It works on numpy arrays as it is, and on JAX arrays under `jax.jit`.

    Args:
        scores: (i, t), images by captions.
        best_positive: (i,), each image's best score with a caption of its own.
        own_positive: (t,), each caption's score with its image.
        image: (i,), the number of each image; only for a block with positives, which must not count.
        caption_image: (t,), the number of each caption's image; likewise.

    Example:
        >>> scores = np.array([[0.9, 0.5], [0.9, 0.2]])
        >>> positive = np.diag(scores)
        >>> compare(scores, positive, positive, np.arange(2), np.arange(2))[:2]
        (array([0, 1]), array([1, 1]))
    """
    in_row = scores >= best_positive[:, None]
    in_column = scores >= own_positive[None, :]
    if image is not None and caption_image is not None:
        is_negative = image[:, None] != caption_image[None, :]
        in_row = in_row & is_negative
        in_column = in_column & is_negative
    return Counts(in_row.sum(1), in_column.sum(0), (abs(scores) < np.inf).all())


def rank(not_worse: np.ndarray) -> np.ndarray:
    """The ranks of items of which `not_worse` negatives score higher or equal.

    >>> rank(np.array([0, 3]))
    array([1, 4])
    """
    return 1 + not_worse


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
    directions = {name: direction_summary(rank, ks) for name, rank in ranks._asdict().items()}
    return directions | {"rsum": sum(numbers[f"r{k}"] for numbers in directions.values() for k in ks)}


def mean_summary(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of every number of several summaries, such as those of COCO's folds."""
    mean = lambda values: float(np.mean(list(values)))
    directions = {
        direction: {name: mean(one[direction][name] for one in summaries) for name in summaries[0][direction]}
        for direction in Ranks._fields
    }
    return directions | {"rsum": mean(one["rsum"] for one in summaries)}


def direction_summary(rank: np.ndarray, ks: Sequence[int] = KS) -> dict[str, float]:
    """Recall@K, median and mean rank of queries in one direction: {"r1", "r5", "r10", "medr", "meanr"}."""
    recalls = {f"r{k}": 100 * float(np.mean(rank <= k)) for k in ks}
    return recalls | {"medr": float(np.median(rank)), "meanr": float(np.mean(rank))}
