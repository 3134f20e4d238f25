"""The gradient of scores that were selected one by one, without a matrix.

Rows travel as in `schedule.py`, in one gather or round a ring, but there are no tiles.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jax_itm.platforms import full_product, is_cpu
from jax_itm.sharded.collectives import after, on_shards
from jax_itm.sharded.schedule import slice_rows
from jax_itm.sharded.tiles import Matrix
from jax_itm.types import Array, Bool, Float, Int

CHUNK = 128  # selected scores that are added at once


class Selection(NamedTuple):
    """For every row, the rows of the other side whose scores it selected, and the cotangent of each score."""

    of: Int[Array, "b k"]  # global numbers; below 0: none
    cotangent: Float[Array, "b k"]


class _Edges(NamedTuple):
    """Additions `dx[to] += weight * y[source]`; those with `place` in 0..rows-1 count. `place` rises."""

    place: Int[Array, "e"]
    to: Int[Array, "e"]
    source: Int[Array, "e"]
    weight: Float[Array, "e"]


def scatter_selected(
    matrix: Matrix,
    y: Float[Array, "b d"],
    mine: Selection,
    theirs: Selection,
) -> Float[Array, "b d"]:
    """The gradient of `x` where x_i selected the rows `mine.of[i]` of y, and y_j `theirs.of[j]` of x.

        dx_i = sum_k mine.cotangent[i, k] y[mine.of[i, k]]
             + sum over (j, k) with theirs.of[j, k] = i  of  theirs.cotangent[j, k] y_j

    `y` and a few numbers travel. For a 3 x 3 matrix where x_0 selected y_2 with cotangent a, and y_1 selected
    x_0 with cotangent c, dx_0 = a y_2 + c y_1. In plain JAX, on one device, both sums are
    `jax.ops.segment_sum(cotangents[:, None] * y[sources], targets, b)`.
    """

    def shards(split: tuple[Any, ...], _: Any) -> tuple[Array, tuple]:
        y, mine, theirs = split
        axes = matrix.axes
        rows = len(y)
        me = axes.index()
        mine = _in_order(mine)  # so that the selected rows of one shard stand together

        def add(dx: Array, moving: tuple[Array, tuple[Array, ...]], shard: Any) -> Array:
            y, theirs = moving
            selected, row, weight = mine
            dx = _add_rows(dx, y, _Edges(selected - shard * rows, row, selected - shard * rows, weight))
            selected, row, weight = theirs
            return _add_rows(dx, y, _Edges(selected - me * rows, selected - me * rows, row, weight))

        dx = after(mine[2], jnp.zeros_like(y))
        moving = y, _in_order(theirs)
        if axes.devices > 1 and matrix.group((y,)) == axes.devices:
            all_y, all_theirs = axes.gather(moving, axes.devices)
            count = len(moving[1][0])
            part = lambda k: (slice_rows(all_y, k * rows, rows), slice_rows(all_theirs, k * count, count))
            return lax.fori_loop(0, axes.devices, lambda k, dx: add(dx, part(k), k), dx), ()

        def step(k: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
            dx, moving = carry
            next_moving = axes.shift(moving)
            return add(dx, moving, (me - k) % axes.devices), next_moving

        return lax.fori_loop(0, axes.devices, step, (dx, moving))[0], ()

    return on_shards(matrix.axes, shards, (y, mine, theirs), ())[0]


def _in_order(selection: Selection) -> tuple[Array, Array, Array]:
    """(selected row, selecting row of this device, cotangent), sorted by the selected row."""
    rows, k = selection.of.shape
    row = jnp.repeat(jnp.arange(rows), k)
    selected, row, cotangent = lax.sort((selection.of.ravel(), row, selection.cotangent.ravel()), num_keys=1)
    return selected, row, cotangent


def _add_rows(dx: Float[Array, "r d"], y: Float[Array, "r d"], edges: _Edges) -> Float[Array, "r d"]:
    """Adds the edges that count to `dx`, a chunk at a time."""
    rows = len(y)
    chunk = min(CHUNK, len(edges.to))
    # `place` rises, so that counting finds where the edges begin and end. A binary search would be a loop.
    first = jnp.sum(edges.place < 0)
    last = jnp.sum(edges.place < rows)
    add = _add_by_index if is_cpu() else _add_by_product

    def add_chunk(k: Array, dx: Array) -> Array:
        start = first + k * chunk
        begin = jnp.minimum(start, len(edges.to) - chunk)
        number = begin + jnp.arange(chunk)
        part = slice_rows(edges, begin, chunk)
        return add(dx, y, part, (number >= start) & (number < last))

    return lax.fori_loop(0, (last - first + chunk - 1) // chunk, add_chunk, dx)


def _add_by_index(dx: Array, y: Array, edges: _Edges, inside: Bool[Array, "c"]) -> Array:
    """For CPUs: rows are read and added to one by one."""
    added = edges.weight[:, None] * y[jnp.where(inside, edges.source, 0)]
    return dx.at[jnp.where(inside, edges.to, len(y))].add(added, mode="drop")


def _add_by_product(dx: Array, y: Array, edges: _Edges, inside: Bool[Array, "c"]) -> Array:
    """For accelerators, which read and write single rows slowly: two products with matrices of 0 and 1."""
    number = jnp.arange(len(y))
    source = (edges.source[:, None] == number).astype(y.dtype)
    target = (number[:, None] == edges.to).astype(y.dtype)
    added = full_product(source, y) * jnp.where(inside, edges.weight, 0)[:, None]
    return dx + full_product(target, added)
