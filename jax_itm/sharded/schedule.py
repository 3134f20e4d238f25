"""Tile schedules: which tiles of the matrix a device visits, in which order, and what devices send.

`traverse` runs one of two. Both give the same result; the symmetric ring visits half of the tiles.

    ring              the columns of a group of devices are there at a time, and pass on to the next group
    symmetric ring    the columns are the rows in another role: each pair of tiles is visited once

A group is one device (the least memory), all of them (one collective fetches every column), or some. On three
devices in groups of one, each with its rows R_k and the columns C_k, which come by:

    step    device 0     device 1     device 2
    0       R_0 x C_0    R_1 x C_1    R_2 x C_2
              |  +-------> |  +-------> |  +---> to device 0
    1       R_0 x C_2    R_1 x C_0    R_2 x C_1
    2       R_0 x C_1    R_1 x C_2    R_2 x C_0

The state of the columns (say, the maximum of each so far) follows one step behind them: while a device works
on tiles, what the others made of the same columns is under way to it, and is merged with its own part
afterwards. After the last step the states go home. So the 3 x 3 matrix of shards is visited along diagonals:

              C_0  C_1  C_2                         C_0  C_1  C_2
        R_0    0    2    1                     R_0   0/           1
        R_1    1    0    2      symmetric:     R_1    1   0/
        R_2    2    1    0                     R_2         1    0/

In the symmetric ring half of the steps are left out: the tile (R_1, C_0) tells of both (1, 0) and (0, 1), and
on the diagonal (0/) only tiles on and above it are visited. With an even number of devices two devices meet
each other at the last step; one takes the even tiles, one the odd.

A second, simpler ring is in `scatter.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_itm.platforms import is_cpu
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
    additive: bool = False  # whether merging is adding


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
    diagonal tiles 1/2); where all columns are there at once, each pair is visited twice, at 1/2.

    One device has all columns already: there `plan.schedule` changes nothing, and the ring has one step.
    """
    group = matrix.group(columns.x, symmetric)
    if symmetric and group == 1:
        return _symmetric_ring(matrix, accumulator, rows, columns, carry)
    return _ring(matrix, accumulator, rows, columns, carry, HALF if symmetric else ALL, group)


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


class _Moving(NamedTuple):
    """What a step of a ring leaves to the next.

    Attributes:
        columns: of the device, or group, whose columns are here next.
        states: of this device's rows; of the columns that were here at the step before.
    """

    columns: Block
    states: States


def _step(
    matrix: Matrix, accumulator: Accumulator, rows: Block, order: TileOrder, group: int, moving: _Moving
) -> _Moving:
    """One step of a ring: all that is sent is under way while the tiles are worked on.

    CPUs send nothing while they work: there single devices continue the state that arrives, which saves the
    memory of a second one.
    """
    axes = matrix.axes
    columns, states = moving
    only_step = group == axes.devices
    here = axes.gather(columns, group)
    next_columns = columns if only_step else axes.shift(columns, group)
    arriving = states.columns if only_step else axes.shift(states.columns, group)
    continues = group == 1 and (is_cpu() or only_step)
    tile_states = states._replace(columns=arriving if continues else accumulator.empty(here))
    size = matrix.tile, matrix.tile_width(group)
    tile_states = _over_tiles(accumulator.update, rows, here, tile_states, size, order)
    result = _to_owners(matrix, accumulator, tile_states.columns, group)
    if not (continues or only_step):
        result = accumulator.merge(arriving, result)
    return _Moving(next_columns, tile_states._replace(columns=result))


def _to_owners(matrix: Matrix, accumulator: Accumulator, columns: PyTree, group: int) -> PyTree:
    """What the devices of a group have of all its columns, merged for each device's own columns."""
    if group == 1:
        return columns
    if accumulator.additive:
        return matrix.axes.sum_scatter(columns, group)
    parts = matrix.axes.exchange(columns, group)
    merge = jax.vmap(accumulator.merge)
    while group > 1:  # in pairs: as many rounds as the group has binary digits
        half = group // 2
        first, second, odd = (
            jax.tree.map(lambda x, cut=cut: x[cut], parts)
            for cut in (slice(half), slice(half, 2 * half), slice(2 * half, None))
        )
        parts = jax.tree.map(lambda *x: jnp.concatenate(x), merge(first, second), odd)
        group = group - half
    return jax.tree.map(lambda x: x[0], parts)


def _ring(
    matrix: Matrix,
    accumulator: Accumulator,
    rows: Block,
    columns: Block,
    carry: PyTree,
    order: TileOrder,
    group: int,
) -> States:
    """Every group's columns come by once."""
    states = States(accumulator.empty(rows), accumulator.empty(columns), carry)
    steps = matrix.axes.devices // group
    step = lambda _, moving: _step(matrix, accumulator, rows, order, group, moving)
    moving = _Moving(columns, states)
    if steps == 1:
        return step(0, moving).states
    states = lax.fori_loop(0, steps, step, moving).states
    return states._replace(columns=matrix.axes.shift(states.columns, group))


def _symmetric_ring(
    matrix: Matrix, accumulator: Accumulator, rows: Block, columns: Block, carry: PyTree
) -> States:
    """Half of the ring's steps; the states of the columns, half-way round by then, are sent home."""
    n = matrix.axes.devices
    step = lambda order, moving: _step(matrix, accumulator, rows, order, 1, moving)
    states = States(accumulator.empty(rows), accumulator.empty(columns), carry)
    moving = step(TRIANGLE, _Moving(columns, states))
    if n == 1:
        return moving.states
    moving = lax.fori_loop(1, (n + 1) // 2, lambda _, moving: step(ALL, moving), moving)
    if n % 2 == 0:  # two devices have each other's rows: one takes the even tiles, one the odd
        takes_odd = matrix.axes.index() < n // 2
        moving = step(TileOrder(lambda i: (i + takes_odd) % 2, 2), moving)
    states = moving.states
    return states._replace(columns=matrix.axes.shift(states.columns, -(n // 2)))
