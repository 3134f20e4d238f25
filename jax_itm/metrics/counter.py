"""Counts ranks from blocks of scores, each of which is read once and discarded."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jax_itm.errors import UserError
from jax_itm.metrics.ranking import KS, Counts, Ranks, compare, mean_summary, rank, summary

ORDER = "feed the blocks in the order of RetrievalCounter.blocks()"


@runtime_checkable
class Scores(Protocol):
    """An array of scores, on the host (numpy) or on devices (JAX)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(images, captions)."""
        ...

    @property
    def dtype(self) -> Any:
        """Of the elements."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """A part of it."""
        ...


class RetrievalCounter:
    """Ranks and recalls of a similarity matrix that is fed block by block.

    Memory is O(images + captions). The scores of a block can only be counted once the positives of its rows
    and columns are known. Therefore `blocks` yields the blocks with positives first, and `add` refuses
    another order: keeping blocks until their positives come would take the memory of the matrix.

    Args:
        caption_image: int (captions,), the image of each caption, ascending from 0, none left out.
        folds: number of equal, consecutive parts of the images, each ranked against its own captions alone.
            COCO's 1K protocol is the mean of five.
        compare: `metrics.compare`, or `jax.jit(metrics.compare)` for scores on devices. Of these, only
            blocks with positives are brought to the host.

    Raises:
        UserError: the images cannot be divided into equal folds.
        ValueError: `caption_image` is not as described.

    Example:
        >>> images = np.eye(100)
        >>> texts = np.repeat(images, 5, axis=0)  # five captions an image
        >>> counter = RetrievalCounter(np.repeat(np.arange(100), 5))
        >>> for rows, columns in counter.blocks(images_per_block=32):
        ...     counter.add(rows, columns, images[rows] @ texts[columns].T)
        >>> counter.result()["rsum"]
        600.0
    """

    def __init__(self, caption_image: np.ndarray, folds: int = 1, compare: Callable[..., Counts] = compare):
        self.caption_image = _checked(caption_image)
        self.captions = len(self.caption_image)
        self.images = int(self.caption_image[-1]) + 1
        if folds < 1 or self.images % folds:
            raise UserError(f"folds: {self.images} images cannot be divided into {folds} equal folds")
        self._compare = compare
        self._image_edges = np.arange(0, self.images + 1, self.images // folds)  # of the folds
        self._caption_edges = np.searchsorted(self.caption_image, self._image_edges)
        self._best_positive = np.full(self.images, -np.inf)
        self._own_positive = np.full(self.captions, np.nan)
        self._positives_to_come = np.bincount(self.caption_image)  # for each image
        self._row_counts = np.zeros(self.images, np.int64)
        self._column_counts = np.zeros(self.captions, np.int64)
        self._row_scores = np.zeros(self.images, np.int64)  # how many were added
        self._column_scores = np.zeros(self.captions, np.int64)

    def blocks(self, images_per_block: int = 1000) -> Iterator[tuple[slice, slice]]:
        """Yields the (images, captions) of each block, in an order that `add` accepts.

        In each fold the diagonal blocks come first, which pair some images with just their own captions.

        Args:
            images_per_block: height of a block. It bounds the memory and changes no result.
        """
        for first, last in itertools.pairwise(self._image_edges.tolist()):
            edges = [*range(first, last, images_per_block), last]
            rows = _slices(edges)
            columns = _slices(np.searchsorted(self.caption_image, edges).tolist())
            yield from zip(rows, columns, strict=True)
            for k, j in itertools.permutations(range(len(rows)), 2):
                yield rows[k], columns[j]

    def add(self, rows: slice, columns: slice, scores: Scores) -> None:
        """Counts one block.

        Args:
            rows: which images.
            columns: which captions.
            scores: (rows, columns), on the host or on devices. Higher is better.

        Raises:
            UserError: a score is not finite. NaN would compare as worse than everything: a perfect rank.
            ValueError: the shape is not that of the slices, or the block came too early or twice.
        """
        rows, columns = self._in_fold(rows, columns)
        name = f"{rows.start}:{rows.stop} x {columns.start}:{columns.stop}"
        if scores.shape != (rows.stop - rows.start, columns.stop - columns.start):
            raise ValueError(f"block {name} has scores of shape {scores.shape}")
        has_positives = self._add_positives(rows, columns, scores)
        is_early = np.any(self._positives_to_come[rows]) or np.any(np.isnan(self._own_positive[columns]))
        if is_early and np.all(np.isfinite(np.asarray(scores))):
            raise ValueError(f"block {name} came before its positives, or again: {ORDER}")
        best_positive = self._best_positive[rows].astype(scores.dtype)
        own_positive = self._own_positive[columns].astype(scores.dtype)
        images = np.arange(rows.start, rows.stop)
        numbers = (images, self.caption_image[columns]) if has_positives else ()
        counts = self._compare(scores, best_positive, own_positive, *numbers)
        if not counts.finite:
            raise UserError(f"scores of images x captions {name} are not all finite: no rank")
        self._row_counts[rows] += np.asarray(counts.rows)
        self._column_counts[columns] += np.asarray(counts.columns)
        self._row_scores[rows] += scores.shape[1]
        self._column_scores[columns] += scores.shape[0]

    def ranks(self) -> Ranks:
        """The rank of every image's best caption and of every caption's image, within its fold.

        Raises:
            ValueError: the blocks do not cover each fold once.
        """
        fold_images = np.diff(self._image_edges)
        fold_captions = np.diff(self._caption_edges)
        row_scores = np.repeat(fold_captions, fold_images)
        column_scores = np.repeat(fold_images, fold_captions)
        if np.any(self._row_scores != row_scores) or np.any(self._column_scores != column_scores):
            added = self._row_scores.sum()
            raise ValueError(f"{added} scores were added, but not each of {row_scores.sum()} once: {ORDER}")
        return Ranks(rank(self._row_counts), rank(self._column_counts))

    def result(self, ks: Sequence[int] = KS) -> dict[str, Any]:
        """The `summary` of the ranks: {"i2t", "t2i", "rsum"}; with several folds the mean of theirs.

        Raises:
            ValueError: the blocks do not cover each fold once.
        """
        i2t, t2i = self.ranks()
        folds = zip(_slices(self._image_edges), _slices(self._caption_edges), strict=True)
        return mean_summary([summary(Ranks(i2t[images], t2i[captions]), ks) for images, captions in folds])

    def _add_positives(self, rows: slice, columns: slice, scores: Scores) -> bool:
        """Takes in the positives of a block; returns whether it has any."""
        image = self.caption_image[columns]
        column = np.flatnonzero((image >= rows.start) & (image < rows.stop))
        if not len(column):
            return False
        positive = np.asarray(scores)[image[column] - rows.start, column]
        self._own_positive[columns.start + column] = positive
        with np.errstate(invalid="ignore"):  # NaN: `add` refuses it
            np.maximum.at(self._best_positive, image[column], positive)
        np.subtract.at(self._positives_to_come, image[column], 1)
        return True

    def _in_fold(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """The slices with both ends; ValueError if they are not inside one fold."""
        i0, i1, row_step = rows.indices(self.images)
        t0, t1, column_step = columns.indices(self.captions)
        fold = np.searchsorted(self._image_edges[1:-1], i0, side="right")
        in_rows = i1 <= self._image_edges[fold + 1]
        in_columns = self._caption_edges[fold] <= t0 and t1 <= self._caption_edges[fold + 1]
        if not (in_rows and in_columns and row_step == column_step == 1):
            raise ValueError(f"block {i0}:{i1} x {t0}:{t1} is not in one fold: {ORDER}")
        return slice(i0, i1), slice(t0, t1)


def _checked(caption_image: np.ndarray) -> np.ndarray:
    caption_image = np.asarray(caption_image)
    if caption_image.ndim != 1 or not len(caption_image) or caption_image.dtype.kind not in "iu":
        kind = f"{caption_image.dtype} {caption_image.shape}"
        raise ValueError(f"caption_image must be integers (captions,), not {kind}")
    if caption_image[0] < 0 or np.any(np.diff(caption_image) < 0):
        raise ValueError(
            "caption_image must be ascending: the captions of image 0, then those of image 1, .."
        )
    captions = np.bincount(caption_image)
    if not captions.all():
        raise ValueError(f"image {np.argmin(captions)} has no caption, so no rank")
    return caption_image


def _slices(edges: Sequence[int] | np.ndarray) -> list[slice]:
    return [slice(int(start), int(stop)) for start, stop in itertools.pairwise(edges)]
