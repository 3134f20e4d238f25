"""Every anchor's negatives: their log-sum-exp, or the one that a key chooses.

Both directions of retrieval in one walk, each with its own custom VJP.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jax_itm.sharded.collectives import after
from jax_itm.sharded.reductions import Summary, fold, pull
from jax_itm.sharded.schedule import pull_chosen
from jax_itm.sharded.tiles import Plan, Tile
from jax_itm.types import Array, Bool, Float, Int, NamedTuple

FAR = 1e30  # stands for a missing log-sum-exp where it is subtracted
LAST = jnp.iinfo(jnp.int32).max


def _log_sum_exp_reduce(tile: Tile, axis: int, scale):
    z = jnp.where(tile.negative, scale * tile.scores[0], -jnp.inf)
    top = jnp.max(z, axis)
    safe = jnp.where(jnp.isfinite(top), top, 0)
    return top, jnp.sum(jnp.exp(z - jnp.expand_dims(safe, axis)), axis)


def _log_sum_exp_merge(a, b):
    top = jnp.maximum(a[0], b[0])
    safe = jnp.where(jnp.isfinite(top), top, 0)
    return top, a[1] * jnp.exp(a[0] - safe) + b[1] * jnp.exp(b[0] - safe)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def log_sum_exp(
    v: Float[Array, "b d"], t: Float[Array, "b d"], image_id, scale, plan: Plan
) -> tuple[Array, Array]:
    """log sum exp (scale * score) over the negatives of every row and of every column, each (b,).

    -inf where there is no negative. Summed online; the backward pass forms each tile again.
    """
    dtype = v.dtype
    summary = Summary(
        (jnp.asarray(-jnp.inf, dtype), jnp.zeros((), dtype)), _log_sum_exp_reduce, _log_sum_exp_merge
    )
    sides = fold(summary, (v,), (t,), image_id, plan, scale)
    row, column = (top + jnp.log(parts) for top, parts in sides)
    return row, column


def _log_sum_exp_forward(v, t, image_id, scale, plan):
    found = log_sum_exp(v, t, image_id, scale, plan)
    return found, (v, t, image_id, scale, found)


def _log_sum_exp_backward(plan, saved, cotangents):
    v, t, image_id, scale, found = saved

    def work(tile, row, column, scale, weight):
        z = scale * tile.scores[0]
        by_row = row[1][:, None] * jnp.exp(z - row[0][:, None])
        by_column = column[1][None, :] * jnp.exp(z - column[0][None, :])
        return (), (jnp.where(tile.negative, scale * (by_row + by_column), 0),), (), ()

    row, column = (
        (jnp.where(jnp.isfinite(lse), lse, FAR), slope) for lse, slope in zip(found, cotangents, strict=True)
    )
    _, (dv, dt, *_) = pull(work, (v,), (t,), row, column, scale, image_id, plan, extras=False, cheap=True)
    # Each score is scale * v.t, so the gradient of the scale needs no pass of its own.
    return dv[0], dt[0], None, (jnp.sum(v * dv[0]) / scale).astype(scale.dtype)


log_sum_exp.defvjp(_log_sum_exp_forward, _log_sum_exp_backward)


class Chosen(NamedTuple):
    """What `choose` found for every row (or column)."""

    score: Float[Array, "b"]
    id: Int[Array, "b"]  # the chosen column (or row)
    possible: Bool[Array, "b"]  # whether there was any


def _choose_fold(key_fn, v, t, image_id, params, plan):
    def reduce(tile, axis, params):
        scores = tile.scores[0]
        keys = scores if key_fn is None else key_fn(tile, axis, params)
        keys = jnp.where(tile.negative, keys, -jnp.inf)
        top = jnp.max(keys, axis)
        ids = jnp.expand_dims(tile.column if axis else tile.row, 1 - axis)
        # "the maximum, then the smallest number among equals": on CPU faster than argmax
        first = jnp.min(jnp.where(keys == jnp.expand_dims(top, axis), ids, LAST), axis)
        if key_fn is None:
            return top, first, top
        return top, first, jnp.max(jnp.where(ids == jnp.expand_dims(first, axis), scores, -jnp.inf), axis)

    def merge(a, b):
        later = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
        return jax.tree.map(lambda x, y: jnp.where(later, y, x), a, b)

    lowest = jnp.asarray(-jnp.inf, v.dtype)
    summary = Summary((lowest, jnp.asarray(LAST, jnp.int32), lowest), reduce, merge)

    def chosen(state):
        possible = jnp.isfinite(state[0])
        return Chosen(jnp.where(possible, state[2], 0), jnp.where(possible, state[1], -1), possible)

    row, column = fold(summary, (v,), (t,), image_id, plan, params)
    return chosen(row), chosen(column)


@partial(jax.custom_vjp, nondiff_argnums=(0, 5))
def choose(
    key_fn, v: Float[Array, "b d"], t: Float[Array, "b d"], image_id, params, plan: Plan
) -> tuple[Any, Any]:
    """One negative of every row, and one of every column: the one of the largest key.

    Args:
        key_fn: (tile, axis, params) -> keys (r, c), for rows (axis 1) or columns (axis 0); -inf never
            wins. None: the score itself. Among equal keys the smallest global number wins.
        v: rows.
        t: columns.
        image_id: equal numbers mark captions of one image.
        params: for `key_fn`.
        plan: how to walk.

    Returns:
        `Chosen` of rows and of columns. Gradients flow through `score` alone: each chosen score's to its
        own two embeddings.
    """
    return _choose_fold(key_fn, v, t, image_id, params, plan)


def _choose_forward(key_fn, v, t, image_id, params, plan):
    row, column = _choose_fold(key_fn, v, t, image_id, params, plan)
    return (row, column), (v, t, row.id, column.id)


def _choose_backward(key_fn, plan, saved, cotangents):
    v, t, of_row, of_column = saved
    row, column = cotangents[0].score, cotangents[1].score
    dv = pull_chosen(t, of_row, row, of_column, column, plan)
    v = after(dv, v)  # one trip after the other
    return dv, pull_chosen(v, of_column, column, of_row, row, plan), None, None


choose.defvjp(_choose_forward, _choose_backward)
