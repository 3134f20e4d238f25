"""Every anchor's negatives: their log-sum-exp, the one of the largest key, or the k hardest.

Both directions of retrieval in one traversal, each with its own custom VJP.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_itm.sharded.collectives import after
from jax_itm.sharded.reductions import Summary, TileGradients, fold, tile_gradients
from jax_itm.sharded.scatter import Selection, scatter_selected
from jax_itm.sharded.tiles import Block, Matrix, Side, Tile
from jax_itm.types import Array, Bool, Float, Int, NamedTuple, PyTree

MISSING = 1e30  # stands for a log-sum-exp over no negative where it is subtracted
LAST = jnp.iinfo(jnp.int32).max


def _log_sum_exp_reduce(tile: Tile, axis: int, scale: Array) -> tuple[Array, Array]:
    z = jnp.where(tile.negative, scale * tile.scores[0], -jnp.inf)
    top = jnp.max(z, axis)
    safe = jnp.where(jnp.isfinite(top), top, 0)
    return top, jnp.sum(jnp.exp(z - jnp.expand_dims(safe, axis)), axis)


def _log_sum_exp_merge(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    top = jnp.maximum(a[0], b[0])
    safe = jnp.where(jnp.isfinite(top), top, 0)
    return top, a[1] * jnp.exp(a[0] - safe) + b[1] * jnp.exp(b[0] - safe)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def log_sum_exp(
    matrix: Matrix, v: Float[Array, "b d"], t: Float[Array, "b d"], image_ids: Int[Array, "b"], scale: Array
) -> tuple[Array, Array]:
    """log sum exp (scale * score) over the negatives of every row and of every column, each (b,).

    -inf where there is no negative. Summed online; the backward pass forms each tile again.
    """
    empty = np.asarray(-np.inf, v.dtype), np.zeros((), v.dtype)
    summary = Summary(empty, _log_sum_exp_reduce, _log_sum_exp_merge)
    sides = fold(matrix, summary, Side((v,), image_ids), Side((t,), image_ids), scale)
    row, column = (top + jnp.log(parts) for top, parts in sides)
    return row, column


def _log_sum_exp_forward(
    matrix: Matrix, v: Array, t: Array, image_ids: Array, scale: Array
) -> tuple[tuple[Array, Array], Any]:
    lse: Any = log_sum_exp(matrix, v, t, image_ids, scale)
    return lse, (v, t, image_ids, scale, lse)


def _log_sum_exp_backward(matrix: Matrix, saved: Any, cotangents: Any) -> Any:
    v, t, image_ids, scale, lse = saved

    def work(tile: Tile, rows: Block, columns: Block, scale: Array, weight: Any) -> TileGradients:
        (row_lse, row_cotangent), (column_lse, column_cotangent) = rows.constants, columns.constants
        z = scale * tile.scores[0]
        by_row = row_cotangent[:, None] * jnp.exp(z - row_lse[:, None])
        by_column = column_cotangent[None, :] * jnp.exp(z - column_lse[None, :])
        return TileGradients((), (jnp.where(tile.negative, scale * (by_row + by_column), 0),), (), ())

    row, column = (
        (jnp.where(jnp.isfinite(one), one, MISSING), cotangent)
        for one, cotangent in zip(lse, cotangents, strict=True)
    )
    rows, columns = Side((v,), image_ids, constants=row), Side((t,), image_ids, constants=column)
    _, dv, dt = tile_gradients(matrix, work, rows, columns, scale, cheap=True)
    # Each score is scale * v.t, so the gradient of the scale needs no pass of its own.
    dscale = (jnp.sum(v * dv.x[0]) / scale).astype(scale.dtype)
    return dv.x[0], dt.x[0], None, dscale  # type: ignore[union-attr]


log_sum_exp.defvjp(_log_sum_exp_forward, _log_sum_exp_backward)

KeyFunction = Callable[[Tile, int, PyTree], Array]


class Selected(NamedTuple):
    """The negative, or the k negatives, of every row (or column)."""

    score: Float[Array, "*b"]
    id: Int[Array, "*b"]  # the column (or row); -1 where there is none
    exists: Bool[Array, "*b"]
    mean: Float[Array, "b"] | None = None  # the mean score of all negatives, without gradient


def _select(
    matrix: Matrix, key_fn: KeyFunction | None, v: Array, t: Array, image_ids: Array, params: PyTree
) -> tuple[Selected, Selected]:
    lowest, zero = np.asarray(-np.inf, v.dtype), np.zeros((), v.dtype)

    def reduce(tile: Tile, axis: int, params: PyTree) -> tuple[Array, ...]:
        scores = tile.scores[0]
        keys = scores if key_fn is None else key_fn(tile, axis, params)
        keys = jnp.where(tile.negative, keys, -jnp.inf)
        top = jnp.max(keys, axis)
        ids = jnp.expand_dims(tile.column if axis else tile.row, 1 - axis)
        # "the maximum, then the smallest number among equals": on CPU faster than argmax
        first = jnp.min(jnp.where(keys == jnp.expand_dims(top, axis), ids, LAST), axis)
        if key_fn is None:
            return top, first
        score = jnp.max(jnp.where(ids == jnp.expand_dims(first, axis), scores, -jnp.inf), axis)
        total = jnp.sum(jnp.where(tile.negative, scores, 0), axis)
        return top, first, score, total, jnp.sum(tile.negative, axis, dtype=v.dtype)

    def merge(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        later = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
        selected = tuple(jnp.where(later, y, x) for x, y in zip(a[:3], b[:3], strict=True))
        return (*selected, *(x + y for x, y in zip(a[3:], b[3:], strict=True)))

    empty = lowest, np.asarray(LAST, np.int32)
    if key_fn is not None:
        empty = (*empty, lowest, zero, zero)

    def selected(state: tuple[Array, ...]) -> Selected:
        exists = jnp.isfinite(state[0])
        score = jnp.where(exists, state[0] if key_fn is None else state[2], 0)
        mean = None if key_fn is None else state[3] / jnp.maximum(state[4], 1)
        return Selected(score, jnp.where(exists, state[1], -1), exists, mean)

    summary = Summary(empty, reduce, merge)
    row, column = fold(matrix, summary, Side((v,), image_ids), Side((t,), image_ids), params)
    return selected(row), selected(column)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def select_negatives(
    matrix: Matrix,
    key_fn: KeyFunction | None,
    v: Float[Array, "b d"],
    t: Float[Array, "b d"],
    image_ids: Int[Array, "b"],
    params: PyTree = (),
) -> tuple[Any, Any]:
    """One negative of every row, and one of every column: the one of the largest key.

    Args:
        matrix: the matrix.
        key_fn: (tile, axis, params) -> keys (r, c), for rows (axis 1) or columns (axis 0); -inf never
            wins. None: the score itself. Among equal keys the smallest global number wins.
        v: rows.
        t: columns.
        image_ids: equal numbers mark captions of one image.
        params: for `key_fn`, without gradient.

    Returns:
        `Selected` of rows and of columns, with the negatives' mean score where there is a `key_fn`. Gradients
        flow through `score` alone: each selected score's to its own two embeddings.
    """
    return _select(matrix, key_fn, v, t, image_ids, params)


def _select_forward(
    matrix: Matrix, key_fn: KeyFunction | None, v: Array, t: Array, image_ids: Array, params: PyTree
) -> Any:
    row, column = _select(matrix, key_fn, v, t, image_ids, params)
    return (row, column), (v, t, row.id[:, None], column.id[:, None])


def _select_backward(matrix: Matrix, key_fn: KeyFunction | None, saved: Any, cotangents: Any) -> Any:
    row, column = (one.score[:, None] for one in cotangents)
    return *_selected_gradients(matrix, saved, row, column), None, None


def _selected_gradients(matrix: Matrix, saved: Any, row: Array, column: Array) -> tuple[Array, Array]:
    v, t, of_row, of_column = saved
    of_rows, of_columns = Selection(of_row, row), Selection(of_column, column)
    dv = scatter_selected(matrix, t, of_rows, of_columns)
    v = after(dv, v)  # one trip after the other
    return dv, scatter_selected(matrix, v, of_columns, of_rows)


select_negatives.defvjp(_select_forward, _select_backward)


def _hardest(matrix: Matrix, k: int, v: Array, t: Array, image_ids: Array) -> tuple[Selected, Selected]:
    def ordered(scores: Array, ids: Array) -> tuple[Array, Array]:
        """The k largest scores of each row, and of equal ones those of the smallest numbers."""
        scores, ids = jax.lax.sort((-scores, ids), num_keys=2)
        return -scores[:, :k], ids[:, :k]

    def reduce(tile: Tile, axis: int, _: PyTree) -> tuple[Array, Array]:
        scores = jnp.where(tile.negative, tile.scores[0], -jnp.inf)
        scores, ids = (scores, tile.column) if axis else (scores.T, tile.row)
        top, at = jax.lax.top_k(scores, min(k, scores.shape[1]))  # of equal ones the first, as `ids` rise
        ids = jnp.where(jnp.isfinite(top), ids[at], LAST)
        missing = [(0, 0), (0, k - top.shape[1])]
        return jnp.pad(top, missing, constant_values=-jnp.inf), jnp.pad(ids, missing, constant_values=LAST)

    def merge(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return ordered(jnp.concatenate([a[0], b[0]], axis=1), jnp.concatenate([a[1], b[1]], axis=1))

    empty = np.full((k,), -np.inf, v.dtype), np.full((k,), LAST, np.int32)

    def selected(state: tuple[Array, Array]) -> Selected:
        exists = jnp.isfinite(state[0])
        return Selected(jnp.where(exists, state[0], 0), jnp.where(exists, state[1], -1), exists)

    summary = Summary(empty, reduce, merge)
    row, column = fold(matrix, summary, Side((v,), image_ids), Side((t,), image_ids))
    return selected(row), selected(column)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def hardest_negatives(
    matrix: Matrix, k: int, v: Float[Array, "b d"], t: Float[Array, "b d"], image_ids: Int[Array, "b"]
) -> tuple[Any, Any]:
    """The k negatives with the largest scores of every row, and of every column; leaves (b, k).

    Among equal scores the smallest global numbers are taken. `exists` is false beyond an anchor's last
    negative. Gradients flow through `score` alone.
    """
    return _hardest(matrix, k, v, t, image_ids)


def _hardest_forward(matrix: Matrix, k: int, v: Array, t: Array, image_ids: Array) -> Any:
    row, column = _hardest(matrix, k, v, t, image_ids)
    return (row, column), (v, t, row.id, column.id)


def _hardest_backward(matrix: Matrix, k: int, saved: Any, cotangents: Any) -> Any:
    return *_selected_gradients(matrix, saved, cotangents[0].score, cotangents[1].score), None


hardest_negatives.defvjp(_hardest_forward, _hardest_backward)
