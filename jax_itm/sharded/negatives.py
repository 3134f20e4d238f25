"""Every anchor's negatives: the one of the highest priority, or the k hardest.

Both directions of retrieval in one traversal; each function has its own VJP. Here v are the rows of the
matrix, t its columns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_itm.sharded.collectives import after
from jax_itm.sharded.reductions import Summary, fold
from jax_itm.sharded.scatter import Selection, scatter_selected
from jax_itm.sharded.tiles import Matrix, Side, Tile
from jax_itm.types import Array, Bool, Float, Int, PyTree

LAST = jnp.iinfo(jnp.int32).max  # a number after those of all rows

# (tile, axis, params) -> priorities (r, c) of a row's negatives (axis 1) or a column's (axis 0).
PriorityFunction = Callable[[Tile, int, PyTree], Array]


class Selected(NamedTuple):
    """The negative, or the k negatives, of every row (or column)."""

    score: Float[Array, "*b"]
    id: Int[Array, "*b"]  # the column (or row); -1 where there is none
    exists: Bool[Array, "*b"]
    mean: Float[Array, "b"] | None = None  # the mean score of all negatives, without gradient


def select_negatives(
    matrix: Matrix,
    priority_fn: PriorityFunction | None,
    v: Float[Array, "b d"],
    t: Float[Array, "b d"],
    image_ids: Int[Array, "b"],
    params: PyTree = (),
) -> tuple[Selected, Selected]:
    """One negative of every row, and one of every column: the one of the highest priority.

    Args:
        matrix: the matrix.
        priority_fn: see `PriorityFunction`; a negative of priority -inf is never selected. None: the score
            itself. Among equal priorities the smallest global number wins.
        v: rows.
        t: columns.
        image_ids: equal numbers mark captions of one image.
        params: for `priority_fn`, without gradient.

    Returns:
        `Selected` of rows and of columns, with the negatives' mean score where there is a `priority_fn`.
        Gradients flow through `score` alone: each selected score's to its own two embeddings.
    """
    row: Selected
    column: Selected
    row, column = _select(matrix, priority_fn, v, t, image_ids, params)
    return row, column


def _select_by_priority(
    matrix: Matrix, priority_fn: PriorityFunction | None, v: Array, t: Array, image_ids: Array, params: PyTree
) -> tuple[Selected, Selected]:
    lowest = np.asarray(-np.inf, v.dtype)
    zero = np.zeros((), v.dtype)

    def reduce(tile: Tile, axis: int, params: PyTree) -> tuple[Array, ...]:
        scores = tile.scores[0]
        priority = scores if priority_fn is None else priority_fn(tile, axis, params)
        priority = jnp.where(tile.negative, priority, -jnp.inf)
        top = jnp.max(priority, axis)
        ids = jnp.expand_dims(tile.column if axis else tile.row, 1 - axis)
        # "the maximum, then the smallest number among equals": on CPU faster than argmax
        first = jnp.min(jnp.where(priority == jnp.expand_dims(top, axis), ids, LAST), axis)
        if priority_fn is None:
            return top, first
        score = jnp.max(jnp.where(ids == jnp.expand_dims(first, axis), scores, -jnp.inf), axis)
        total = jnp.sum(jnp.where(tile.negative, scores, 0), axis)
        return top, first, score, total, jnp.sum(tile.negative, axis, dtype=v.dtype)

    def merge(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        b_wins = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
        selected = tuple(jnp.where(b_wins, y, x) for x, y in zip(a[:3], b[:3], strict=True))
        return (*selected, *(x + y for x, y in zip(a[3:], b[3:], strict=True)))

    empty = lowest, np.asarray(LAST, np.int32)
    if priority_fn is not None:
        empty = (*empty, lowest, zero, zero)

    def selected(state: tuple[Array, ...]) -> Selected:
        exists = jnp.isfinite(state[0])
        score = jnp.where(exists, state[0] if priority_fn is None else state[2], 0)
        mean = None if priority_fn is None else state[3] / jnp.maximum(state[4], 1)
        return Selected(score, jnp.where(exists, state[1], -1), exists, mean)

    summary = Summary(empty, reduce, merge)
    row, column = fold(matrix, summary, Side((v,), image_ids), Side((t,), image_ids), params)
    return selected(row), selected(column)


def _select_forward(
    matrix: Matrix, priority_fn: PriorityFunction | None, v: Array, t: Array, image_ids: Array, params: PyTree
) -> Any:
    row, column = _select_by_priority(matrix, priority_fn, v, t, image_ids, params)
    return (row, column), (v, t, row.id[:, None], column.id[:, None])


def _select_backward(
    matrix: Matrix, priority_fn: PriorityFunction | None, saved: Any, cotangents: Any
) -> Any:
    row, column = (side.score[:, None] for side in cotangents)
    return *_selected_gradients(matrix, saved, row, column), None, None


def _selected_gradients(matrix: Matrix, saved: Any, row: Array, column: Array) -> tuple[Array, Array]:
    v, t, of_row, of_column = saved
    of_rows = Selection(of_row, row)
    of_columns = Selection(of_column, column)
    dv = scatter_selected(matrix, t, of_rows, of_columns)
    v = after(dv, v)  # run the two ring passes in sequence
    return dv, scatter_selected(matrix, v, of_columns, of_rows)


_select = jax.custom_vjp(_select_by_priority, nondiff_argnums=(0, 1))
_select.defvjp(_select_forward, _select_backward)


def top_k_negatives(
    matrix: Matrix, k: int, v: Float[Array, "b d"], t: Float[Array, "b d"], image_ids: Int[Array, "b"]
) -> tuple[Selected, Selected]:
    """The k negatives with the largest scores of every row, and of every column; leaves (b, k).

    Among equal scores the smallest global numbers are taken. `exists` is false beyond an anchor's last
    negative. Gradients flow through `score` alone.
    """
    row: Selected
    column: Selected
    row, column = _top_k(matrix, k, v, t, image_ids)
    return row, column


def _top_k_scores(matrix: Matrix, k: int, v: Array, t: Array, image_ids: Array) -> tuple[Selected, Selected]:
    def ordered(scores: Array, ids: Array) -> tuple[Array, Array]:
        """The k largest scores of each row, and of equal ones those of the smallest numbers."""
        scores, ids = jax.lax.sort((-scores, ids), num_keys=2)
        return -scores[:, :k], ids[:, :k]

    def reduce(tile: Tile, axis: int, _: PyTree) -> tuple[Array, Array]:
        scores = jnp.where(tile.negative, tile.scores[0], -jnp.inf)
        scores, ids = (scores, tile.column) if axis else (scores.T, tile.row)
        top, at = jax.lax.top_k(scores, min(k, scores.shape[1]))  # of equal ones the first, as `ids` rise
        ids = jnp.where(jnp.isfinite(top), ids[at], LAST)
        padding = [(0, 0), (0, k - top.shape[1])]
        return jnp.pad(top, padding, constant_values=-jnp.inf), jnp.pad(ids, padding, constant_values=LAST)

    def merge(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return ordered(jnp.concatenate([a[0], b[0]], axis=1), jnp.concatenate([a[1], b[1]], axis=1))

    empty = np.full((k,), -np.inf, v.dtype), np.full((k,), LAST, np.int32)

    def selected(state: tuple[Array, Array]) -> Selected:
        exists = jnp.isfinite(state[0])
        return Selected(jnp.where(exists, state[0], 0), jnp.where(exists, state[1], -1), exists)

    summary = Summary(empty, reduce, merge)
    row, column = fold(matrix, summary, Side((v,), image_ids), Side((t,), image_ids))
    return selected(row), selected(column)


def _top_k_forward(matrix: Matrix, k: int, v: Array, t: Array, image_ids: Array) -> Any:
    row, column = _top_k_scores(matrix, k, v, t, image_ids)
    return (row, column), (v, t, row.id, column.id)


def _top_k_backward(matrix: Matrix, k: int, saved: Any, cotangents: Any) -> Any:
    return *_selected_gradients(matrix, saved, cotangents[0].score, cotangents[1].score), None


_top_k = jax.custom_vjp(_top_k_scores, nondiff_argnums=(0, 1))
_top_k.defvjp(_top_k_forward, _top_k_backward)
