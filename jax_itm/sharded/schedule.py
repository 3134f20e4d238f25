"""The walk over the similarity matrix: which tiles a device meets, in which order, and what travels.

`tour` visits every tile of a device's rows; `pull_chosen` brings home the gradients of single chosen
scores. Both by ring or by gathering, as `similarity.py` says.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_itm.sharded.collectives import AXIS, after, devices, gathered, on_shards, sent_home, shift
from jax_itm.sharded.tiles import Plan, Side, gathers, largest, padded, tiling
from jax_itm.types import Array, Float, NamedTuple, PyTree


def _cut(tree: PyTree, at, size: int) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, at, size), tree)


def _put(tree: PyTree, part: PyTree, at) -> PyTree:
    return jax.tree.map(lambda x, y: lax.dynamic_update_slice_in_dim(x, y, at, 0), tree, part)


class _Order(NamedTuple):
    """Which tiles (i, j) of a block are visited: j = first(i), first(i) + stride, ..; and their weight."""

    first: Callable[[Any], Any] = lambda i: 0
    stride: int = 1
    weight: Callable[[Any, Any], Any] = lambda i, j: 1.0


_ALL = _Order()
_TWICE = _Order(weight=lambda i, j: 0.5)  # where the mirror image of each tile is visited too
_TRIANGLE = _Order(lambda i: i, 1, lambda i, j: jnp.where(i == j, 0.5, 1.0))


def _block(visit, rows: Side, columns: Side, carry: PyTree, tile: tuple[int, int], order: _Order) -> PyTree:
    """Visits tiles, of `tile` rows and columns, of this device's rows and the present columns."""
    high, wide = tile
    across = len(columns.id) // wide

    def strip(i, carry):
        row_state, column_state, whole = carry
        own, start = _cut(rows, i * high, high), order.first(i)

        def one(k, carry):
            state, column_state, whole = carry
            j = start + order.stride * k
            theirs = _cut(columns, j * wide, wide), _cut(column_state, j * wide, wide)
            state, column_part, whole = visit(own, theirs[0], state, theirs[1], whole, order.weight(i, j))
            return state, _put(column_state, column_part, j * wide), whole

        carry = _cut(row_state, i * high, high), column_state, whole
        state, column_state, whole = lax.fori_loop(0, -((start - across) // order.stride), one, carry)
        return _put(row_state, state, i * high), column_state, whole

    return lax.fori_loop(0, len(rows.id) // high, strip, carry)


def tour(visit, neutral, merge, rows: Side, columns: Side, whole, tile: int, plan: Plan, symmetric: bool):
    """Visits all tiles of this device's rows with every column -> (row state, column state, whole).

    `visit(rows, columns, row_state, column_state, whole, weight)` returns the three states anew;
    `neutral(side)` is the state before any visit, `merge` joins two. With `symmetric`, both sides are
    the same rows: every unordered pair of tiles is visited once with weight 1, or, where it is its own
    mirror image or two devices visit it, with weights 1/2.
    """
    n, state, square = devices(), neutral(rows), (tile, tile)
    if n > 1 and gathers(plan, columns.x):
        everything = gathered(columns)
        carry = (state, neutral(everything), whole)
        parts = len(everything.id) // tile  # a shard's tiles may be small: as many as fit make one
        most = max(largest(plan) // tile, 1)
        wide = tile * max(k for k in range(1, most + 1) if parts % k == 0)
        order = _TWICE if symmetric else _ALL
        state, of_columns, whole = _block(visit, rows, everything, carry, (tile, wide), order)
        parts = sent_home(of_columns)
        first, others = (jax.tree.map(lambda x, at=at: x[at], parts) for at in (0, slice(1, None)))
        home, _ = lax.scan(lambda joined, part: (merge(joined, part), None), first, others)
        return state, home, whole

    def step(order, carry):
        columns, state, travelling, whole = carry
        following = shift(columns)  # under way while the tiles are worked on
        state, travelling, whole = _block(visit, rows, columns, (state, travelling, whole), square, order)
        return following, state, shift(travelling), whole

    carry = (columns, state, neutral(columns), whole)
    if not symmetric:
        return lax.fori_loop(0, n, lambda k, carry: step(_ALL, carry), carry)[1:]
    carry = step(_TRIANGLE, carry)
    if n == 1:
        return carry[1:]
    carry = lax.fori_loop(1, (n + 1) // 2, lambda k, carry: step(_ALL, carry), carry)
    if n % 2 == 0:  # two devices have each other's rows: one takes the even tiles, one the odd
        odd = lax.axis_index(AXIS) < n // 2
        _, *carry = step(_Order(lambda i: (i + odd) % 2, 2), carry)
    else:
        _, *carry = carry
    state, travelling, whole = carry
    return state, shift(travelling, -(n // 2 + 1)), whole


def pull_chosen(y, mine, slope, theirs, their_slope, plan: Plan) -> Float[Array, "b d"]:
    """The gradient of x where row i chose column mine[i] of `y`, and column j chose row theirs[j] of x.

        dx_i = slope_i y[mine_i] + sum over j with theirs_j = i of their_slope_j y_j

    A number below 0 chose nothing. Only `y` and a few numbers travel.
    """
    batch = len(mine)
    given = padded((y, mine, slope, theirs, their_slope), tiling(batch, plan)[1])

    def shards(split, _):
        y, mine, slope, theirs, their_slope = split
        n, rows = devices(), len(y)
        me = lax.axis_index(AXIS) if n > 1 else 0
        in_order = lambda chosen, slope: lax.sort((chosen, jnp.arange(rows), slope), num_keys=1)
        mine = in_order(mine, slope)  # so that what concerns one shard stands together

        def add(dx, moving, shard):
            y, theirs = moving
            chosen, row, slope = mine
            dx = _add_rows(dx, y, row, chosen - shard * rows, slope, chosen - shard * rows)
            chosen, row, slope = theirs
            return _add_rows(dx, y, chosen - me * rows, row, slope, chosen - me * rows)

        dx = after(slope, jnp.zeros_like(y))
        moving = y, in_order(theirs, their_slope)
        if n > 1 and gathers(plan, (y,)):
            everything = gathered(moving)
            one = lambda k, dx: add(dx, _cut(everything, k * rows, rows), k)
            return lax.fori_loop(0, n, one, dx), ()

        def step(k, carry):
            dx, moving = carry
            following = shift(moving)
            return add(dx, moving, (me - k) % n), following

        return lax.fori_loop(0, n, step, (dx, moving))[0], ()

    return on_shards(shards, given, ())[0][:batch]


def _add_rows(dx, y, to, source, weight, place, chunk: int = 128):
    """Adds weight[k] y[source[k]] to dx[to[k]] for those k whose `place`, in rising order, is in 0..rows."""
    rows = len(y)
    chunk = min(chunk, rows)
    first, last = jnp.searchsorted(place, jnp.array([0, rows]))

    def one(k, dx):
        start = first + k * chunk
        at = jnp.minimum(start, rows - chunk)
        number = at + jnp.arange(chunk)
        to_part, source_part, weight_part = _cut((to, source, weight), at, chunk)
        inside = (number >= start) & (number < last)
        added = weight_part[:, None] * y[jnp.where(inside, source_part, 0)]
        return dx.at[jnp.where(inside, to_part, rows)].add(added, mode="drop")

    return lax.fori_loop(0, (last - first + chunk - 1) // chunk, one, dx)
