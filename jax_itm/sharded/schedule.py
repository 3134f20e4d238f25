"""Tile schedules: which tiles of the matrix a device visits, in which order, and what devices exchange.

`traverse` runs one of three. All give the same result; the symmetric ring visits half the tiles, the other
two all of them.

    gather            all columns at once, where they are small
    ring              the columns are passed on from device to device
    symmetric ring    the columns are the rows in another role: each pair of tiles is visited once

The ring, on three devices, each with its rows R_k and the columns C_k, which come by with their state c_k
(say, the maximum of each column so far):

    step    device 0          device 1          device 2
    0       R_0 x C_0, c_0    R_1 x C_1, c_1    R_2 x C_2, c_2
              |  +------------> |  +------------> |  +---> to device 0
    1       R_0 x C_2, c_2    R_1 x C_0, c_0    R_2 x C_1, c_1
    2       R_0 x C_1, c_1    R_1 x C_2, c_2    R_2 x C_0, c_0
              after one more shift every c_k is at home, complete

So the 3 x 3 matrix of shards is visited along its diagonals, one a step:

              C_0  C_1  C_2                         C_0  C_1  C_2
        R_0    0    2    1                     R_0   0/           1
        R_1    1    0    2      symmetric:     R_1    1   0/
        R_2    2    1    0                     R_2         1    0/

In the symmetric ring half of the steps are left out: the tile (R_1, C_0) stands for both (1, 0) and (0, 1),
and on the diagonal (0/) only tiles on and above it are visited. With an even number of devices two devices
hold each other's rows at the last step; one takes the even tiles, one the odd.

`scatter.py` has a ring of its own: it adds selected rows one by one, and so has no tiles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_itm.sharded.tiles import Block, Matrix
from jax_itm.types import Array, PyTree

Weight = Array | float  # of a tile: how much it counts


class States(NamedTuple):
    """What the tiles so far have left behind."""

    rows: PyTree  # of each of this device's rows
    columns: PyTree  # of each of the columns that are here now
    carry: PyTree  # whatever else the traversal carries: parameters, sums over tiles


class Accumulator(NamedTuple):
    """What is done with each tile."""

    empty: Callable[[Block], PyTree]  # the state of a block before any tile
    update: Callable[
        [Block, Block, States, Weight], States
    ]  # (rows, columns, states, weight), all of one tile
    merge: Callable[[PyTree, PyTree], PyTree]  # of two states of the same rows


class TileOrder(NamedTuple):
    """Which tiles (i, j) of a block are visited, j = first(i), first(i) + stride, .., and their weights."""

    first: Callable[[Array], Array | int] = lambda i: 0
    stride: int = 1
    weight: Callable[[Array, Array], Weight] = lambda i, j: 1.0


ALL = TileOrder()
HALF = TileOrder(weight=lambda i, j: 0.5)  # where the mirror image of each tile is visited too
TRIANGLE = TileOrder(lambda i: i, 1, lambda i, j: jnp.where(i == j, 0.5, 1.0))


def traverse(
    matrix: Matrix, accumulator: Accumulator, rows: Block, columns: Block, carry: PyTree, symmetric: bool
) -> States:
    """The states after all tiles of this device's rows with every column, inside `on_shards`.

    With `symmetric` both sides are the same rows. The ring visits each unordered pair once (weight 1;
    diagonal tiles 1/2); gathering visits each pair twice, at 1/2.

    One device has all columns already: there `plan.schedule` changes nothing, and the ring has one step.
    """
    if matrix.axes.devices > 1 and matrix.gathers(columns.x):
        return _gather(matrix, accumulator, rows, columns, carry, HALF if symmetric else ALL)
    schedule = _symmetric_ring if symmetric else _ring
    return schedule(matrix, accumulator, rows, columns, carry)


def slice_rows(tree: PyTree, start: Array | int, size: int) -> Any:
    """`size` rows of every leaf."""
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size), tree)


def _put_rows(tree: PyTree, part: PyTree, start: Array | int) -> PyTree:
    return jax.tree.map(lambda x, y: lax.dynamic_update_slice_in_dim(x, y, start, 0), tree, part)


def _over_tiles(
    update: Callable[[Block, Block, States, Weight], States],
    rows: Block,
    columns: Block,
    states: States,
    size: tuple[int, int],
    order: TileOrder,
) -> States:
    """Visits the tiles, of `size` rows and columns, of this device's rows and the columns that are here."""
    height, width = size
    tiles_across = len(columns.id) // width

    def row_strip(i: Array, states: States) -> States:
        row_block = slice_rows(rows, i * height, height)
        first = order.first(i)
        count = -((first - tiles_across) // order.stride)  # (tiles_across - first) / stride, rounded up

        def column_tile(k: Array, strip_states: States) -> States:
            j = first + order.stride * k
            column_block = slice_rows(columns, j * width, width)
            column_states = slice_rows(strip_states.columns, j * width, width)
            tile_states = strip_states._replace(columns=column_states)
            tile_states = update(row_block, column_block, tile_states, order.weight(i, j))
            column_states = _put_rows(strip_states.columns, tile_states.columns, j * width)
            return tile_states._replace(columns=column_states)

        strip_states = states._replace(rows=slice_rows(states.rows, i * height, height))
        strip_states = lax.fori_loop(0, count, column_tile, strip_states)
        return strip_states._replace(rows=_put_rows(states.rows, strip_states.rows, i * height))

    return lax.fori_loop(0, len(rows.id) // height, row_strip, states)


def _gather(
    matrix: Matrix, accumulator: Accumulator, rows: Block, columns: Block, carry: PyTree, order: TileOrder
) -> States:
    """All columns at once; their states then return to the devices that own them, and are merged there."""
    empty, update, merge = accumulator
    row_states = empty(rows)
    all_columns = matrix.axes.gather(columns)
    states = States(row_states, empty(all_columns), carry)
    tile = matrix.tile
    tiles_across = len(all_columns.id) // tile
    most = max(matrix.largest_tile // tile, 1)  # a shard's tiles may be small: as many as fit make one
    width = tile * max(k for k in range(1, most + 1) if tiles_across % k == 0)
    states = _over_tiles(update, rows, all_columns, states, (tile, width), order)
    parts = matrix.axes.exchange(states.columns)  # every device's states of the columns that this one owns
    first_part = jax.tree.map(lambda x: x[0], parts)
    other_parts = jax.tree.map(lambda x: x[1:], parts)
    merged, _ = lax.scan(lambda merged, part: (merge(merged, part), None), first_part, other_parts)
    return states._replace(columns=merged)


def _step(
    matrix: Matrix, accumulator: Accumulator, rows: Block, order: TileOrder, moving: tuple[Block, States]
) -> tuple[Block, States]:
    """One step of a ring: the tiles of the columns that are here, which then go to the next device."""
    columns, states = moving
    next_columns = matrix.axes.shift(columns)  # under way while the tiles are worked on
    size = (matrix.tile, matrix.tile)
    states = _over_tiles(accumulator.update, rows, columns, states, size, order)
    return next_columns, states._replace(columns=matrix.axes.shift(states.columns))


def _ring(matrix: Matrix, accumulator: Accumulator, rows: Block, columns: Block, carry: PyTree) -> States:
    """Every block of columns comes by once, and is home again after as many steps as there are devices."""
    step = lambda _, moving: _step(matrix, accumulator, rows, ALL, moving)
    states = States(accumulator.empty(rows), accumulator.empty(columns), carry)
    return lax.fori_loop(0, matrix.axes.devices, step, (columns, states))[1]


def _symmetric_ring(
    matrix: Matrix, accumulator: Accumulator, rows: Block, columns: Block, carry: PyTree
) -> States:
    """Half of the ring's steps; the states of the columns, half-way round by then, are sent home."""
    n = matrix.axes.devices
    step = lambda order, moving: _step(matrix, accumulator, rows, order, moving)
    states = States(accumulator.empty(rows), accumulator.empty(columns), carry)
    moving = step(TRIANGLE, (columns, states))
    if n == 1:
        return moving[1]
    moving = lax.fori_loop(1, (n + 1) // 2, lambda _, moving: step(ALL, moving), moving)
    if n % 2 == 0:  # two devices have each other's rows: one takes the even tiles, one the odd
        takes_odd = matrix.axes.index() < n // 2
        moving = step(TileOrder(lambda i: (i + takes_odd) % 2, 2), moving)
    states = moving[1]
    return states._replace(columns=matrix.axes.shift(states.columns, -(n // 2 + 1)))
