"""Ranks and recalls, in pure numpy, from blocks of scores that are seen once.

    rank = 1 + items strictly better + *other* items exactly equal

so that a tie never helps. Image to text counts the best of an image's captions against all captions
of other images; text to image has one right image. Recall@K is the share of ranks <= K, in percent.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jax_itm.types import UserError

Range = tuple[int, int]
Block = tuple[Range, Range, np.ndarray]


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


def ranks(blocks: Iterable[Block], caption_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rank of every image's best caption, and of every caption's image.

    Args:
        blocks: (image range, caption range, scores) over the whole matrix, each pair once, in the
            order of `block_plan`: a row's or column's positives before its other scores.
        caption_image: int (t,), the image of each caption, ascending.

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
        scores = np.asarray(scores)
        if not np.all(np.isfinite(scores)):
            raise UserError(f"scores of images {i0}:{i1} with captions {t0}:{t1} are not all finite: no rank")
        mine = caption_image[None, t0:t1] == np.arange(i0, i1)[:, None]
        if scores.shape != mine.shape:
            raise ValueError(f"block {i0}:{i1} x {t0}:{t1} has scores of shape {scores.shape}")
        row, column = np.nonzero(mine)
        own[t0 + column] = positive = scores[row, column].astype(np.float64)
        np.maximum.at(best, i0 + row, positive)
        ahead[i0:i1] -= np.sum(mine, axis=1)
        if ahead[i0:i1].any() or np.isnan(own[t0:t1]).any():
            raise ValueError(f"block {i0}:{i1} x {t0}:{t1} came before its positives, or again")
        others = ~mine
        i2t[i0:i1] += np.sum((scores >= best[i0:i1, None]) & others, axis=1)
        t2i[t0:t1] += np.sum((scores >= own[None, t0:t1]) & others, axis=0)
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
    score_block: Callable[[Range, Range], np.ndarray],
    caption_image: np.ndarray,
    protocol: str = "full",
    folds: int = 5,
    images_per_block: int = 1000,
) -> dict[str, Any]:
    """Retrieval numbers under a protocol.

    Args:
        score_block: (image range, caption range) -> scores (i, t).
        caption_image: int (t,), the image of each caption, ascending.
        protocol: "full", or "folds": the mean over `folds` equal parts of the images, in order
            (COCO 1K: five folds of the 5,000 test images).
        folds: how many.
        images_per_block: height of a block; bounds the memory, changes nothing else.

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
        found.append(metrics(*ranks(blocks, inside)))
    return _mean(found)


def _mean(results: list[dict[str, Any]]) -> dict[str, Any]:
    ways = {
        way: {k: float(np.mean([r[way][k] for r in results])) for k in results[0][way]}
        for way in ("i2t", "t2i")
    }
    return ways | {"rsum": float(np.mean([r["rsum"] for r in results]))}
