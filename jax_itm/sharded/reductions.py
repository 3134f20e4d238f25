"""What losses need from the similarity matrix, tile by tile, with gradients that recompute each tile.

On whole arrays outside of any `shard_map`, equal on any number of devices:

    fold            a summary of every row and of every column, without gradient: statistics, thresholds
    pair_sum        the sum over all pairs of a function of their scores, differentiable
    tile_gradients  the gradients that custom VJPs are made of

`log_sum_exp.py` and `negatives.py` have what contrastive losses need. Automatic differentiation of a
traversal would keep every tile.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_itm.platforms import is_cpu
from jax_itm.sharded.collectives import after, on_shards
from jax_itm.sharded.schedule import Accumulator, States, Weight, traverse
from jax_itm.sharded.tiles import Block, Matrix, Side, Tile
from jax_itm.types import Array, PyTree

add = partial(jax.tree.map, jnp.add)


class Summary(NamedTuple):
    """How `fold` sums up the entries of a row or a column."""

    empty: PyTree  # of nothing: the state of one row, in numpy
    reduce: Callable[[Tile, int, PyTree], PyTree]  # of a tile along an axis, given the parameters
    merge: Callable[[PyTree, PyTree], PyTree]  # of two parts


def fold(
    matrix: Matrix, summary: Summary, rows: Side, columns: Side | None, params: PyTree = ()
) -> tuple[Any, Any]:
    """The summaries of all rows and of all columns, leaves (b, ..).

    Args:
        matrix: the matrix; its `products` are what a tile's scores are.
        summary: see `Summary`.
        rows: the rows.
        columns: the columns; None where they are the same rows in another role: every pair is then visited
            once, `reduce` must sum up rows along axis 1 and columns along axis 0, as if each were the row,
            and the two results are equal.
        params: given to `reduce`; they get no gradient.
    """
    row, column, _ = fold_keeping(matrix, summary, rows, columns, params, keep=False)
    return row, column


def fold_keeping(
    matrix: Matrix,
    summary: Summary,
    rows: Side,
    columns: Side | None,
    params: PyTree = (),
    *,
    keep: bool,
) -> tuple[Any, Any, Array | None]:
    """As `fold`, and with `keep` also every device's strip (rows, b) of the first product's scores."""
    symmetric = columns is None

    def update(rows: Block, columns: Block, states: States, weight: Weight) -> States:
        tile, _, _ = matrix.scores(rows, columns)
        params, strip = states.carry
        row = summary.merge(states.rows, summary.reduce(tile, 1, params))
        column = summary.merge(states.columns, summary.reduce(tile, 0, params))
        if symmetric:  # a tile that is its own mirror image, or visited twice, counts for its rows only
            column = jax.tree.map(lambda new, old: jnp.where(weight == 1, new, old), column, states.columns)
        if keep:
            strip = lax.dynamic_update_slice(strip, tile.scores[0], matrix.place(tile))
        return States(row, column, (params, strip))

    def empty(block: Block) -> PyTree:
        full = lambda x: jnp.broadcast_to(x, (len(block.id), *jnp.shape(x)))
        return jax.tree.map(lambda x: full(jnp.asarray(x)), summary.empty)

    def shards(sides: tuple[Side, Side | None], params: PyTree) -> tuple[Any, tuple]:
        row_block, column_block = _blocks(matrix, sides)
        accumulator = Accumulator(empty, update, summary.merge)
        strip = lax.empty((matrix.rows, matrix.batch), rows.x[0].dtype) if keep else None
        states = traverse(matrix, accumulator, row_block, column_block, (params, strip), symmetric)
        row, column = states.rows, states.columns
        if symmetric:
            row = column = summary.merge(row, column)
        return (*matrix.unpad((row, column)), states.carry[1]), ()

    return on_shards(matrix.axes, shards, (rows, columns), params)[0]


def _blocks(matrix: Matrix, sides: tuple[Side, Side | None]) -> tuple[Block, Block]:
    rows = matrix.block(sides[0])
    return rows, rows if sides[1] is None else matrix.block(sides[1])


class TileGradients(NamedTuple):
    """What a function of a tile returns to `tile_gradients`."""

    sums: PyTree  # scalars, to be summed over the tiles
    scores: tuple[Array, ...]  # cotangents of the learnt scores
    rows: PyTree  # cotangents of the tile's `rows.per_row`
    columns: PyTree  # cotangents of its `columns.per_row`


def tile_gradients(
    matrix: Matrix,
    work: Callable[[Tile, Block, Block, PyTree, Weight], TileGradients],
    rows: Side,
    columns: Side | None,
    params: PyTree,
    *,
    cheap: bool = False,
    kept: Array | None = None,
) -> tuple[Any, Side, Side | None]:
    """Sums of `work` over all tiles, and the gradients of both sides.

    Args:
        matrix: its `products` are a tile's scores.
        work: (tile, its rows, its columns, params, weight) -> `TileGradients`.
        rows: the rows.
        columns: the columns, or None as in `fold`.
        params: given to `work`; replicated.
        cheap: the cotangents are quickly had from the scores, and may be worked out twice.
        kept: the scores of every device's rows, from `fold_keeping`; None: they are formed again.

    Returns:
        The sums; the gradients of `rows` (of both their roles where `columns` is None) and of `columns`.
    """
    symmetric = columns is None

    def update(rows: Block, columns: Block, states: States, weight: Weight) -> States:
        params, sums, strip = states.carry
        tile, x, y = matrix.scores(rows, columns, strip)
        here = work(tile, rows, columns, params, weight)
        (dx, row), (dy, column) = states.rows, states.columns
        dx, dy = list(dx), list(dy)
        for (i, j), cotangent in zip(matrix.products.learnt, here.scores, strict=True):
            dx[i] += matrix.dot(cotangent, y[j], (1, 0))
            dy[j] += _transposed_dot(matrix, cotangent, x[i], cheap)
        carry = params, add(sums, here.sums), strip
        return States((tuple(dx), add(row, here.rows)), (tuple(dy), add(column, here.columns)), carry)

    def empty(block: Block) -> PyTree:
        zeros = jax.tree.map(jnp.zeros_like, (block.x, block.per_row))
        known = jax.tree.leaves((block.per_row, block.constants))
        return after(known[0], zeros) if known else zeros  # often of an earlier traversal: wait for it

    def shards(split: tuple[Any, Array | None], params: PyTree) -> tuple[Any, PyTree]:
        sides, strip = split
        row_block, column_block = _blocks(matrix, sides)
        one = [jax.tree.map(lambda leaf: leaf[: matrix.tile], block) for block in (row_block, column_block)]
        shape = lambda r, c: work(matrix.scores(r, c)[0], r, c, params, 1.0).sums
        sums = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(shape, *one))
        accumulator = Accumulator(empty, update, add, additive=True)
        states = traverse(matrix, accumulator, row_block, column_block, (params, sums, strip), symmetric)
        row, column = (add(*states[:2]), None) if symmetric else states[:2]
        row = _unmixed(matrix, row_block, row)
        column = None if column is None else _unmixed(matrix, column_block, column)
        return matrix.unpad((row, column)), states.carry[1]

    (row, column), sums = on_shards(matrix.axes, shards, ((rows, columns), kept), params)
    of = lambda gradient: Side(gradient[0], None, gradient[1], None)  # type: ignore[arg-type]
    return sums, of(row), None if column is None else of(column)


def _unmixed(matrix: Matrix, block: Block, gradients: tuple[Any, PyTree]) -> tuple[Any, PyTree]:
    """The gradients of a block's embeddings, from those of the mixtures that were multiplied."""
    dx, per_row = gradients
    return jax.linear_transpose(matrix.products.mix, block.x)(dx)[0], per_row


def _transposed_dot(matrix: Matrix, cotangent: Array, x: Array, cheap: bool) -> Array:
    if cheap and is_cpu():
        # XLA's product with a transposed left side takes a fifth longer there than this, which works the
        # cotangents out anew in the other order.
        return matrix.dot(lax.optimization_barrier(cotangent.T), x, (1, 0))
    return matrix.dot(cotangent, x, (0, 0))


PairFunction = Callable[[Tile, PyTree, PyTree, PyTree], tuple[Array, PyTree]]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def pair_sum(
    matrix: Matrix, fn: PairFunction, rows: Side, columns: Side | None, params: PyTree = ()
) -> tuple[Any, Any]:
    """The sum over tiles of `fn`, and of its diagnostics.

    Value and gradients come from one traversal: `fn`'s tile is differentiated while it is there.

    Args:
        matrix: the matrix.
        fn: (tile, rows.per_row, columns.per_row, params) -> (a scalar, a tree of scalars without gradient).
        rows: the rows.
        columns: the columns; None where they are the same rows, as in `fold`: `fn` then counts each unordered
            pair of rows in both orders.
        params: a tree of scalars, with gradient.
    """
    return _pair_sum_forward(matrix, fn, rows, columns, params)[0]


def _pair_sum_forward(
    matrix: Matrix, fn: PairFunction, rows: Side, columns: Side | None, params: PyTree
) -> tuple[Any, Any]:
    def work(tile: Tile, rows: Block, columns: Block, params: PyTree, weight: Weight) -> TileGradients:
        count = len(matrix.products.learnt)
        learnt, constant = tile.scores[:count], tile.scores[count:]

        def value(learnt: tuple[Array, ...], *known: PyTree) -> tuple[Array, PyTree]:
            return fn(tile._replace(scores=learnt + constant), *known)

        known = rows.per_row, columns.per_row, params
        out, back, notes = jax.vjp(value, learnt, *known, has_aux=True)
        scores, row, column, dparams = back(jnp.asarray(weight, out.dtype))
        notes = jax.tree.map(lambda note: weight * note, notes)
        return TileGradients((weight * out, notes, dparams), scores, row, column)

    (value, notes, dparams), row, column = tile_gradients(matrix, work, rows, columns, params)
    return (value, notes), (row, column, dparams)


def _pair_sum_backward(matrix: Matrix, fn: PairFunction, gradients: Any, cotangents: Any) -> Any:
    return jax.tree.map(lambda gradient: cotangents[0] * gradient, gradients)


pair_sum.defvjp(_pair_sum_forward, _pair_sum_backward)
