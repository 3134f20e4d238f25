"""The log-sum-exp over every anchor's negatives, in both directions of retrieval, in one traversal.

It has its own VJP. Here v are the rows of the matrix, t its columns.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_itm.sharded.reductions import Summary, TileGradients, fold_keeping, tile_gradients
from jax_itm.sharded.schedule import Weight
from jax_itm.sharded.tiles import Block, Matrix, Side, Tile
from jax_itm.types import Array, Float, Int

# A large finite stand-in for the -inf log-sum-exp of an anchor without negatives: so exp(z - MISSING) = 0.
MISSING = 1e30


def log_sum_exp(
    matrix: Matrix, v: Float[Array, "b d"], t: Float[Array, "b d"], image_ids: Int[Array, "b"], scale: Array
) -> tuple[Array, Array]:
    """log sum exp (scale * score) over the negatives of every row and of every column, each (b,).

    -inf where there is no negative. Summed online; the backward pass forms each tile again, unless
    `matrix.keeps_scores`.
    """
    row: Array
    column: Array
    row, column = _log_sum_exp(matrix, v, t, image_ids, scale)
    return row, column


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
def _log_sum_exp(matrix: Matrix, v: Array, t: Array, image_ids: Array, scale: Array) -> tuple[Array, Array]:
    return _summed(matrix, v, t, image_ids, scale, keep=False)[0]


def _summed(
    matrix: Matrix, v: Array, t: Array, image_ids: Array, scale: Array, keep: bool
) -> tuple[tuple[Array, Array], Array | None]:
    empty = np.asarray(-np.inf, v.dtype), np.zeros((), v.dtype)
    summary = Summary(empty, _log_sum_exp_reduce, _log_sum_exp_merge)
    sides = Side((v,), image_ids), Side((t,), image_ids)
    *lse, kept = fold_keeping(matrix, summary, *sides, scale, keep=keep)
    row, column = (top + jnp.log(sums) for top, sums in lse)
    return (row, column), kept


def _log_sum_exp_forward(
    matrix: Matrix, v: Array, t: Array, image_ids: Array, scale: Array
) -> tuple[tuple[Array, Array], Any]:
    lse, kept = _summed(matrix, v, t, image_ids, scale, matrix.keeps_scores)
    return lse, (v, t, image_ids, scale, lse, kept)


def _log_sum_exp_backward(matrix: Matrix, saved: Any, cotangents: Any) -> Any:
    v, t, image_ids, scale, lse, kept = saved
    factor = lambda scale: jnp.where(scale == 0, 1, scale)  # at scale 0 `dv` and `dt` come undivided by it

    def work(tile: Tile, rows: Block, columns: Block, scale: Array, weight: Weight) -> TileGradients:
        (row_lse, row_cotangent), (column_lse, column_cotangent) = rows.constants, columns.constants
        z = scale * tile.scores[0]
        by_row = row_cotangent[:, None] * jnp.exp(z - row_lse[:, None])
        by_column = column_cotangent[None, :] * jnp.exp(z - column_lse[None, :])
        cotangent = jnp.where(tile.negative, factor(scale) * (by_row + by_column), 0)
        return TileGradients((), (cotangent,), (), ())

    row, column = (
        (jnp.where(jnp.isfinite(side), side, MISSING), cotangent)
        for side, cotangent in zip(lse, cotangents, strict=True)
    )
    rows = Side((v,), image_ids, constants=row)
    columns = Side((t,), image_ids, constants=column)
    _, dv, dt = tile_gradients(matrix, work, rows, columns, scale, cheap=True, kept=kept)
    # Each logit is scale * (v . t), so d/d scale = sum(v * dv) / scale, and needs no traversal of its own.
    dscale = (jnp.sum(v * dv.x[0]) / factor(scale)).astype(scale.dtype)
    dv, dt = (jnp.where(scale == 0, 0, side.x[0]) for side in (dv, dt))  # type: ignore[union-attr]
    return dv, dt, None, dscale


_log_sum_exp.defvjp(_log_sum_exp_forward, _log_sum_exp_backward)
