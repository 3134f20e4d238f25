"""Tile schedules: which tiles of the matrix a device meets, in which order, and what travels between devices.

`traverse` runs one of three. All meet every tile of a device's rows with every column and give the same:

    gather            all columns at once, where they are small
    ring              the columns are passed on from device to device
    symmetric ring    the columns are the rows in another role: each pair of tiles is met once, half the work

The ring, on three devices, each with its rows R_k and the columns C_k, which come by with their state c_k
(say, the maximum of each column so far):

    step    device 0          device 1          device 2
    0       R_0 x C_0, c_0    R_1 x C_1, c_1    R_2 x C_2, c_2
              |  +------------> |  +------------> |  +---> to device 0
    1       R_0 x C_2, c_2    R_1 x C_0, c_0    R_2 x C_1, c_1
    2       R_0 x C_1, c_1    R_1 x C_2, c_2    R_2 x C_0, c_0
              after one more shift every c_k is at home, complete

So the 3 x 3 matrix of shards is met along its diagonals, one a step:

              C_0  C_1  C_2                         C_0  C_1  C_2
        R_0    0    2    1                     R_0   0/           1
        R_1    1    0    2      symmetric:     R_1    1   0/
        R_2    2    1    0                     R_2         1    0/

In the symmetric ring half of the steps are left out: the tile (R_1, C_0) tells of both (1, 0) and (0, 1), and
on the diagonal (0/) only tiles on and above it are met. With an even number of devices two devices meet each
other at the last step; one takes the even tiles, one the odd.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_itm.sharded.tiles import Block, Matrix
from jax_itm.types import Array, NamedTuple, PyTree


class States(NamedTuple):
    """What has been gathered so far."""

    rows: PyTree  # of each of this device's rows
    columns: PyTree  # of each of the columns that are here now
    totals: PyTree  # of all tiles that this device has met


class Accumulator(NamedTuple):
    """What is done with each tile."""

    empty: Callable[[Block], PyTree]  # the state of a block's rows before any tile
    update: Callable[[Block, Block, States, Any], States]  # (rows, columns, states, weight), all of one tile
    merge: Callable[[PyTree, PyTree], PyTree]  # of two states of the same rows


class Order(NamedTuple):
    """Which tiles (i, j) of a block are met: j = first(i), first(i) + stride, ..; and their weight."""

    first: Callable[[Any], Any] = lambda i: 0
    stride: int = 1
    weight: Callable[[Any, Any], Any] = lambda i, j: 1.0


ALL = Order()
TWICE = Order(weight=lambda i, j: 0.5)  # where the mirror image of each tile is met too
TRIANGLE = Order(lambda i: i, 1, lambda i, j: jnp.where(i == j, 0.5, 1.0))


def traverse(
    matrix: Matrix, accumulator: Accumulator, rows: Block, columns: Block, totals: PyTree, symmetric: bool
) -> States:
    """The states after all tiles of this device's rows with every column, inside `on_shards`.

    With `symmetric` both sides are the same rows: every unordered pair of tiles is met once with weight 1 or,
    where it is its own mirror image or two devices meet it, with weights 1/2.
    """
    if matrix.axes.devices > 1 and matrix.gathers(columns.x):
        return _gather(matrix, accumulator, rows, columns, totals, TWICE if symmetric else ALL)
    schedule = _symmetric_ring if symmetric else _ring
    return schedule(matrix, accumulator, rows, columns, totals)


def cut(tree: PyTree, start: Any, size: int) -> Any:
    """Rows of every leaf."""
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size), tree)


def _put(tree: PyTree, part: PyTree, start: Any) -> PyTree:
    return jax.tree.map(lambda x, y: lax.dynamic_update_slice_in_dim(x, y, start, 0), tree, part)


def _over_tiles(
    update: Callable[[Block, Block, States, Any], States],
    rows: Block,
    columns: Block,
    states: States,
    size: tuple[int, int],
    order: Order,
) -> States:
    """Meets the tiles, of `size` rows and columns, of this device's rows and the columns that are here."""
    high, wide = size
    across = len(columns.id) // wide

    def strip(i: Array, states: States) -> States:
        own, first = cut(rows, i * high, high), order.first(i)

        def one(k: Array, states: States) -> States:
            j = first + order.stride * k
            theirs = cut(columns, j * wide, wide)
            here = states._replace(columns=cut(states.columns, j * wide, wide))
            here = update(own, theirs, here, order.weight(i, j))
            return here._replace(columns=_put(states.columns, here.columns, j * wide))

        here = states._replace(rows=cut(states.rows, i * high, high))
        here = lax.fori_loop(0, -((first - across) // order.stride), one, here)
        return here._replace(rows=_put(states.rows, here.rows, i * high))

    return lax.fori_loop(0, len(rows.id) // high, strip, states)


def _gather(
    matrix: Matrix, accumulator: Accumulator, rows: Block, columns: Block, totals: PyTree, order: Order
) -> States:
    """All columns at once; their states then return to the devices that own them, and are merged there."""
    empty, update, merge = accumulator
    state = empty(rows)
    everything = matrix.axes.gather(columns)
    states = States(state, empty(everything), totals)
    tile = matrix.tile
    parts = len(everything.id) // tile  # a shard's tiles may be small: as many as fit make one
    most = max(matrix.largest_tile // tile, 1)
    wide = tile * max(k for k in range(1, most + 1) if parts % k == 0)
    states = _over_tiles(update, rows, everything, states, (tile, wide), order)
    parts = matrix.axes.exchange(states.columns)
    first, others = (jax.tree.map(lambda x, at=at: x[at], parts) for at in (0, slice(1, None)))
    home, _ = lax.scan(lambda joined, part: (merge(joined, part), None), first, others)
    return states._replace(columns=home)


def _step(
    matrix: Matrix, accumulator: Accumulator, rows: Block, order: Order, carry: tuple[Block, States]
) -> tuple[Block, States]:
    """One step of a ring: the tiles of the columns that are here, which then go to the next device."""
    columns, states = carry
    following = matrix.axes.shift(columns)  # under way while the tiles are worked on
    size = (matrix.tile, matrix.tile)
    states = _over_tiles(accumulator.update, rows, columns, states, size, order)
    return following, states._replace(columns=matrix.axes.shift(states.columns))


def _ring(matrix: Matrix, accumulator: Accumulator, rows: Block, columns: Block, totals: PyTree) -> States:
    """Every block of columns comes by once, and is home again after as many steps as there are devices."""
    step = lambda _, carry: _step(matrix, accumulator, rows, ALL, carry)
    states = States(accumulator.empty(rows), accumulator.empty(columns), totals)
    return lax.fori_loop(0, matrix.axes.devices, step, (columns, states))[1]


def _symmetric_ring(
    matrix: Matrix, accumulator: Accumulator, rows: Block, columns: Block, totals: PyTree
) -> States:
    """Half of the ring's steps; the states of the columns, half-way round by then, are sent home."""
    n = matrix.axes.devices
    step = lambda order, carry: _step(matrix, accumulator, rows, order, carry)
    states = States(accumulator.empty(rows), accumulator.empty(columns), totals)
    carry = step(TRIANGLE, (columns, states))
    if n == 1:
        return carry[1]
    carry = lax.fori_loop(1, (n + 1) // 2, lambda _, carry: step(ALL, carry), carry)
    if n % 2 == 0:  # two devices have each other's rows: one takes the even tiles, one the odd
        odd = matrix.axes.index() < n // 2
        carry = step(Order(lambda i: (i + odd) % 2, 2), carry)
    states = carry[1]
    return states._replace(columns=matrix.axes.shift(states.columns, -(n // 2 + 1)))
