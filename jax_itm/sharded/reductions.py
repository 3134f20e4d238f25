"""What losses ask of the similarity matrix, tile by tile, with gradients that recompute tiles.

Two functions, on whole arrays outside of any `shard_map`, equal on any number of devices:

    fold       a summary of every row and of every column, without gradient: statistics, thresholds
    pair_sum   the sum over all pairs of a function of their scores

and `pull`, the gradients that custom VJPs are made of. `negatives.py` has what contrastive losses need.
Automatic differentiation of the walk would keep every tile.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jax_itm.sharded.collectives import after, on_shards
from jax_itm.sharded.schedule import tour
from jax_itm.sharded.tiles import MATRIX, Plan, Products, Side, Tile, dot, scores_of, side, tiling
from jax_itm.types import Array, Int, NamedTuple, PyTree

add = partial(jax.tree.map, jnp.add)


class Summary(NamedTuple):
    """How `fold` sums up the entries of a row or a column."""

    empty: PyTree  # of nothing: scalars
    reduce: Callable[[Tile, int, PyTree], PyTree]  # of a tile along an axis, given the parameters
    merge: Callable[[PyTree, PyTree], PyTree]  # of two parts


def _layout(x, y, row_extra, column_extra, image_id, plan: Plan, products: Products):
    """Both sides padded to whole tiles, the height of a tile, and what makes a tile of two slices."""
    batch = len(image_id)
    tile, padded = tiling(batch, plan)
    rows = side(x, image_id, row_extra, padded)
    columns = side(x if y is None else y, image_id, column_extra, padded)
    real = batch if padded > batch else None
    return rows, columns, tile, lambda r, c: scores_of(r, c, products, real, plan.dtype)


def fold(
    summary: Summary, x, y, image_id: Int[Array, "b"], plan: Plan, params: PyTree = (), products=MATRIX
) -> tuple[Any, Any]:
    """The summaries of all rows and of all columns, leaves (b,).

    Args:
        summary: see `Summary`.
        x: embeddings (b, d) of the rows, a tuple.
        y: those of the columns; None where they are the same rows in another role: then every pair is
            looked at once, `reduce` along axis 1 must tell of the rows and along axis 0 of the columns
            as if each were the row, and the two results are one.
        image_id: equal numbers mark captions of one image.
        plan: how to walk.
        params: given to `reduce`; they get no gradient.
        products: which x meets which y; a tile's `scores` are in their order.
    """
    symmetric = y is None
    rows, columns, tile, scored = _layout(x, y, (), (), image_id, plan, products)

    def visit(rows, columns, row_state, column_state, whole, weight):
        seen, _, _ = scored(rows, columns)
        row_state = summary.merge(row_state, summary.reduce(seen, 1, whole))
        added = summary.merge(column_state, summary.reduce(seen, 0, whole))
        if symmetric:  # a tile that is its own mirror image, or met from both ends, tells its rows only
            added = jax.tree.map(lambda new, old: jnp.where(weight == 1, new, old), added, column_state)
        return row_state, added, whole

    def neutral(side: Side) -> PyTree:
        full = lambda e: jnp.full(len(side.id), e, jnp.asarray(e).dtype)
        return jax.tree.map(full, summary.empty)

    def shards(sides, whole):
        rows, columns = sides
        row, column, _ = tour(visit, neutral, summary.merge, rows, columns, whole, tile, plan, symmetric)
        if symmetric:
            row = column = summary.merge(row, column)
        return (row, column), ()

    found, _ = on_shards(shards, (rows, columns), params)
    return jax.tree.map(lambda leaf: leaf[: len(image_id)], found)


def _transposed_dot(slope, x, dtype: str, cheap: bool):
    if cheap and jax.default_backend() == "cpu":
        # XLA's product with a transposed left side takes a fifth longer there than this, which works the
        # slopes out anew in the other order.
        return dot(jax.lax.optimization_barrier(slope.T), x, (1, 0), dtype)
    return dot(slope, x, (0, 0), dtype)


def pull(
    work,
    x,
    y,
    row_extra,
    column_extra,
    params,
    image_id,
    plan: Plan,
    products=MATRIX,
    *,
    extras=True,
    cheap=False,
) -> Any:
    """Sums of `work` over all tiles, and the gradients with respect to all that goes in.

    `work(tile, row_extra, column_extra, params, weight)` returns (sums, slopes of the scores, slopes
    of row_extra, of column_extra). With `extras` False the last two are empty. With `cheap`, slopes are
    quickly had from the scores and may be worked out twice. Returns (sums, gradients of x, y, row_extra,
    column_extra); with `y` None the gradient of x is that of both its roles.
    """
    symmetric = y is None
    rows, columns, tile, scored = _layout(x, y, row_extra, column_extra, image_id, plan, products)

    def visit(rows, columns, row_state, column_state, whole, weight):
        seen, x, y = scored(rows, columns)
        params, sums = whole
        more, slopes, row_slope, column_slope = work(seen, rows.extra, columns.extra, params, weight)
        (dx, row_sum), (dy, column_sum) = row_state, column_state
        dx, dy = list(dx), list(dy)
        for (i, j), slope in zip(products.learnt, slopes, strict=True):
            dx[i] += dot(slope, y[j], (1, 0), plan.dtype)
            dy[j] += _transposed_dot(slope, x[i], plan.dtype, cheap)
        row_state = tuple(dx), add(row_sum, row_slope)
        column_state = tuple(dy), add(column_sum, column_slope)
        return row_state, column_state, (params, add(sums, more))

    def neutral(side: Side) -> PyTree:
        zeros = jax.tree.map(jnp.zeros_like, (side.x, side.extra if extras else ()))
        known = jax.tree.leaves(side.extra)  # often of an earlier walk, beside which these would lie
        return after(known[0], zeros) if known else zeros

    def shards(sides, params):
        first = [jax.tree.map(lambda leaf: leaf[:tile], side) for side in sides]
        shape = lambda r, c: work(scored(r, c)[0], r.extra, c.extra, params, 1.0)[0]
        sums = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(shape, *first))
        rows, columns = sides
        row, column, (_, sums) = tour(
            visit, neutral, add, rows, columns, (params, sums), tile, plan, symmetric
        )
        if symmetric:
            row, column = (add(row[0], column[0]), row[1]), ((), column[1])
        return (row, column), sums

    (row, column), sums = on_shards(shards, (rows, columns), params)
    row, column = jax.tree.map(lambda leaf: leaf[: len(image_id)], (row, column))
    unmixed = lambda x, dx: jax.linear_transpose(products.mix, x)(dx)[0]
    dx, dy = unmixed(x, row[0]), None if symmetric else unmixed(y, column[0])
    return sums, (dx, dy, row[1], column[1])


@partial(jax.custom_vjp, nondiff_argnums=(0, 7, 8))
def pair_sum(
    fn, x, y, row_extra, column_extra, params, image_id, plan: Plan, products=MATRIX
) -> tuple[Any, Any]:
    """The sum over tiles of `fn`, and of its diagnostics.

    Value and gradients come from one pass: `fn`'s tile is differentiated while it is there.

    Args:
        fn: (tile, row_extra, column_extra, params) -> (a scalar, a tree of scalars without gradient).
        x: embeddings (b, d) of the rows, a tuple.
        y: those of the columns; None where they are the same rows, as in `fold`: `fn` then counts each
            unordered pair of rows in both orders.
        row_extra: a tree of floats (b,), what `fn` knows of each row.
        column_extra: the same of columns.
        params: a tree of scalars.
        image_id: equal numbers mark captions of one image.
        plan: how to walk.
        products: which x meets which y; a tile's `scores` are in their order.
    """
    return _pair_sum_forward(fn, x, y, row_extra, column_extra, params, image_id, plan, products)[0]


def _pair_sum_forward(fn, x, y, row_extra, column_extra, params, image_id, plan, products):
    def work(tile, row_extra, column_extra, params, weight):
        count = len(products.learnt)
        learnt, constant = tile.scores[:count], tile.scores[count:]

        def value(learnt, *given):
            return fn(tile._replace(scores=learnt + constant), *given)

        out, back, notes = jax.vjp(value, learnt, row_extra, column_extra, params, has_aux=True)
        slopes, row, column, whole = back(jnp.asarray(weight, out.dtype))
        notes = jax.tree.map(lambda note: weight * note, notes)
        return (weight * out, notes, whole), slopes, row, column

    (value, notes, dparams), grads = pull(
        work, x, y, row_extra, column_extra, params, image_id, plan, products
    )
    return (value, notes), (*grads, dparams)


def _pair_sum_backward(fn, plan, products, grads, cotangents):
    return *jax.tree.map(lambda grad: cotangents[0] * grad, grads), None


pair_sum.defvjp(_pair_sum_forward, _pair_sum_backward)
