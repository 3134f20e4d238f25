"""Ranks and recalls from blocks of scores that are seen once.

    rank = 1 + items strictly better + *other* items exactly equal

so that a tie never helps. Image to text counts the best of an image's captions against all captions
of other images; text to image has one right image. Recall@K is the share of ranks <= K, in percent.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jax_itm.errors import UserError

NOT_FINITE = "scores of images {}:{} with captions {}:{} are not all finite: no rank"
Range = tuple[int, int]
Block = tuple[Range, Range, Any]  # an array of scores, on the host or on devices


def block_plan(caption_image: np.ndarray, images_per_block: int) -> list[tuple[Range, Range]]:
    """Image and caption ranges that cover the score matrix, those holding the positives first.

    `caption_image` (t,) is ascending, so an image's captions lie together, and block k of the
    captions holds just those of block k of the images.
    """
    images = int(caption_image[-1]) + 1
    edges = [*range(0, images, images_per_block), images]
    rows = list(itertools.pairwise(edges))
    cuts = np.searchsorted(caption_image, edges)
    columns = [(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
    diagonal = list(zip(rows, columns, strict=True))
    rest = [(r, c) for k, r in enumerate(rows) for j, c in enumerate(columns) if j != k]
    return diagonal + rest


def compare(scores, best, own, image=None, owner=None):
    """What one block adds: scores >= `best` a row, scores >= `own` a column, and whether all are finite.

    With the rows' `image` and the columns' `owner` numbers, pairs of equal ones do not count. Written for
    numpy and for `jax.jit` alike.
    """
    in_row, in_column = scores >= best[:, None], scores >= own[None, :]
    if image is not None and owner is not None:
        other = image[:, None] != owner[None, :]
        in_row, in_column = in_row & other, in_column & other
    return in_row.sum(1), in_column.sum(0), (abs(scores) < np.inf).all()


def ranks(
    blocks: Iterable[Block], caption_image: np.ndarray, compare: Callable[..., Any] = compare
) -> tuple[np.ndarray, np.ndarray]:
    """The rank of every image's best caption, and of every caption's image.

    Args:
        blocks: (image range, caption range, scores) over the whole matrix, each pair once, in the
            order of `block_plan`: a row's or column's positives before its other scores. Scores may
            lie on devices: only the blocks that hold positives are brought to the host.
        caption_image: int (t,), the image of each caption, ascending.
        compare: `compare` above, or the same under `jax.jit`, for scores on devices.

    Returns:
        i2t (images,) and t2i (captions,), integers from 1.

    Raises:
        UserError: a score is not finite. NaN would compare as worse than everything, and count as
            a perfect rank.
        ValueError: an image has no caption, a block has another shape than its ranges or came before
            all its positives, or the blocks do not cover the matrix once.
    """
    images, captions = int(caption_image[-1]) + 1, len(caption_image)
    best, own = np.full(images, -np.inf), np.full(captions, np.nan)
    i2t, t2i = np.ones(images, np.int64), np.ones(captions, np.int64)
    ahead = np.bincount(caption_image)  # captions of each image that no block has held yet
    if not ahead.all():
        raise ValueError(f"image {np.argmin(ahead)} has no caption, so no rank")
    in_row, in_column = np.zeros(images, np.int64), np.zeros(captions, np.int64)  # scores seen
    for (i0, i1), (t0, t1), scores in blocks:
        if scores.shape != (i1 - i0, t1 - t0):
            raise ValueError(f"block {i0}:{i1} x {t0}:{t1} has scores of shape {scores.shape}")
        owner = caption_image[t0:t1]
        column = np.flatnonzero((owner >= i0) & (owner < i1))
        row = owner[column] - i0
        if len(row):
            own[t0 + column] = positive = np.asarray(scores)[row, column]
            np.maximum.at(best, i0 + row, positive)
            np.subtract.at(ahead, i0 + row, 1)
        if ahead[i0:i1].any() or np.isnan(own[t0:t1]).any():
            if not np.all(np.isfinite(scores)):
                raise UserError(NOT_FINITE.format(i0, i1, t0, t1))
            raise ValueError(f"block {i0}:{i1} x {t0}:{t1} came before its positives, or again")
        at = best[i0:i1].astype(scores.dtype), own[t0:t1].astype(scores.dtype)
        same = (np.arange(i0, i1), owner) if len(row) else ()
        *more, finite = compare(scores, *at, *same)
        if not finite:
            raise UserError(NOT_FINITE.format(i0, i1, t0, t1))
        i2t[i0:i1] += np.asarray(more[0])
        t2i[t0:t1] += np.asarray(more[1])
        in_row[i0:i1] += t1 - t0
        in_column[t0:t1] += i1 - i0
    if np.any(in_row != captions) or np.any(in_column != images):
        raise ValueError(f"{in_row.sum()} scores seen of {images} x {captions}, not each once")
    return i2t, t2i


def recalls(rank: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10 in percent, and the median and mean rank."""
    at = {f"r{k}": 100 * float(np.mean(rank <= k)) for k in (1, 5, 10)}
    return at | {"medr": float(np.median(rank)), "meanr": float(np.mean(rank))}


def metrics(i2t: np.ndarray, t2i: np.ndarray) -> dict[str, Any]:
    """Both directions' recalls, and rSum: the sum of the six."""
    both = {"i2t": recalls(i2t), "t2i": recalls(t2i)}
    return both | {"rsum": sum(way[f"r{k}"] for way in both.values() for k in (1, 5, 10))}


def evaluate(
    score_block: Callable[[Range, Range], Any],
    caption_image: np.ndarray,
    protocol: str = "full",
    folds: int = 5,
    images_per_block: int = 1000,
    compare: Callable[..., Any] = compare,
) -> dict[str, Any]:
    """Retrieval numbers under a protocol.

    Args:
        score_block: (image range, caption range) -> scores (i, t).
        caption_image: int (t,), the image of each caption, ascending.
        protocol: "full", or "folds": the mean over `folds` equal parts of the images, in order
            (COCO 1K: five folds of the 5,000 test images).
        folds: how many.
        images_per_block: height of a block; bounds the memory, changes nothing else.
        compare: as in `ranks`.

    Raises:
        UserError: a score is not finite, or the images do not make equal folds.
        ValueError: another protocol, or as `ranks`.
    """
    images = int(caption_image[-1]) + 1
    if protocol == "full":
        parts = [(0, images)]
    elif protocol != "folds":
        raise ValueError(f"protocol {protocol!r}: neither 'full' nor 'folds'")
    else:
        if images % folds:
            raise UserError(f"protocol folds: {images} images do not make {folds} equal folds")
        size = images // folds
        parts = [(k * size, (k + 1) * size) for k in range(folds)]
    found = []
    for start, stop in parts:
        first, last = map(int, np.searchsorted(caption_image, (start, stop)))
        inside = caption_image[first:last] - start
        blocks = (
            ((r, c, score_block((r[0] + start, r[1] + start), (c[0] + first, c[1] + first))))
            for r, c in block_plan(inside, images_per_block)
        )
        found.append(metrics(*ranks(blocks, inside, compare)))
    return _mean(found)


def _mean(results: list[dict[str, Any]]) -> dict[str, Any]:
    ways = {
        way: {k: float(np.mean([r[way][k] for r in results])) for k in results[0][way]}
        for way in ("i2t", "t2i")
    }
    return ways | {"rsum": float(np.mean([r["rsum"] for r in results]))}
