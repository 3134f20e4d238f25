"""Ranks and recalls of a similarity matrix, given in full or in blocks."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jax_itm.metrics.counter import RetrievalCounter, Scores
from jax_itm.metrics.ranking import KS, Ranks

Block = tuple[slice, slice, Scores]  # which images, which captions, and their scores
IMAGES_PER_BLOCK = 1000  # rows of a matrix that are compared at once


def recall(
    scores: Scores | Iterable[Block], caption_image: np.ndarray, ks: Sequence[int] = KS, folds: int = 1
) -> dict[str, Any]:
    """Recall@K, median and mean rank in both directions.

    Args:
        scores: a matrix (images, captions), higher is better; or its blocks (rows, columns, scores) with two
            slices, in the order of `RetrievalCounter.blocks`.
        caption_image: int (captions,), the image of each caption, ascending from 0, none left out.
        ks: the K of Recall@K.
        folds: the mean over this many equal, consecutive parts of the images (COCO 1K: 5).

    Returns:
        {"i2t": {"r1", "r5", "r10", "medr", "meanr"}, "t2i": {..}, "rsum"}. Recalls are percentages; rSum is
        the sum of all of them.

    Raises:
        UserError: a score is not finite, or the images cannot be divided into equal folds.
        ValueError: shapes do not match, or the blocks do not cover the matrix once, positives first.

    Example:
        >>> result = recall(np.eye(4), np.arange(4), ks=(1, 2))
        >>> result["i2t"]["r1"], result["rsum"]
        (100.0, 400.0)
    """
    return _count(scores, caption_image, folds).result(ks)


def ranks(scores: Scores | Iterable[Block], caption_image: np.ndarray, folds: int = 1) -> Ranks:
    """The rank of every image's best caption and of every caption's image, pessimistic on ties.

    Args and errors are those of `recall`.

    Example:
        >>> scores = np.array([[0.9, 0.1, 0.9, 0.2], [0.9, 0.3, 0.5, 0.4]])
        >>> ranks(scores, np.array([0, 0, 1, 1]))
        Ranks(i2t=array([2, 2]), t2i=array([2, 2, 2, 1]))
    """
    return _count(scores, caption_image, folds).ranks()


def _count(scores: Scores | Iterable[Block], caption_image: np.ndarray, folds: int) -> RetrievalCounter:
    counter = RetrievalCounter(caption_image, folds)
    if not isinstance(scores, Scores):
        for rows, columns, block in scores:
            counter.add(rows, columns, block)
        return counter
    if scores.shape != (counter.images, counter.captions):
        expected = f"{counter.images} images and {counter.captions} captions"
        raise ValueError(f"scores of shape {scores.shape}, but caption_image has {expected}")
    for rows, columns in counter.blocks(IMAGES_PER_BLOCK):
        counter.add(rows, columns, scores[rows, columns])
    return counter
