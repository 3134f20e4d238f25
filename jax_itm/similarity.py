"""The sharded similarity matrix: the only room with collectives, and never a whole matrix.

Of the B x B scores of a global batch, a device holds one `tile` x `tile` part at a time. Its own rows
stay; the columns come by. In the *ring*, every device passes its columns on to the next one, and with
them what has been gathered for those columns so far (their maxima and sums, or their gradients): one
trip serves both directions of retrieval, and memory is a few shards, whatever the batch. Where all
columns are small enough, they are *gathered* instead, which takes one collective. Both give the same.

`tour` is that walk, and `pairs.py` what losses make of it. Outside a mesh (a notebook, a unit test)
there is one device. The mesh is the one set by `jax.set_mesh`; models and methods never see it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jax_itm.types import Array, Bool, Float, Int, NamedTuple, PyTree

AXIS = "data"
GATHER_BYTES = 16 * 2**20  # the columns of all devices, up to which `auto` gathers them


class Plan(NamedTuple):
    """How the matrix is walked; `config.similarity`. No choice changes a result but by rounding."""

    form: str = "auto"  # | ring | gather
    tile: int = 512  # the largest height and width of a part
    dtype: str = "float32"  # of the products: as the embeddings, or "bfloat16"; sums stay float32


class Side(NamedTuple):
    """Rows of one side of the matrix: k of them, all of a device's or a tile's."""

    x: tuple[Float[Array, "k d"], ...]
    id: Int[Array, "k"]  # global row numbers
    image_id: Int[Array, "k"]
    extra: PyTree  # what a function of a tile knows of each row; leaves (k,)


class Tile(NamedTuple):
    """What a function of a tile sees."""

    scores: tuple[Float[Array, "r c"], ...]  # one array for each of `products`
    negative: Bool[Array, "r c"]  # pairs of different images; same-image captions are never negatives
    row: Int[Array, "r"]  # global row numbers
    column: Int[Array, "c"]


def _devices() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[AXIS]


def over_rows(fn: Callable[..., Any], *arrays: PyTree) -> Any:
    """Runs `fn` on every device's own rows; its results must be equal on all devices.

    Every leaf of `arrays` is split on axis 0 over the mesh. What `fn` closes over is replicated.
    Gradients are taken outside: inside `shard_map`, grad-then-mean would be n times too large.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return fn(*arrays)
    return jax.shard_map(fn, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec())(*arrays)


def total(x: PyTree) -> Any:
    """The sum over the devices of every leaf, inside `over_rows`."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.tree.map(lambda leaf: lax.psum(leaf, AXIS), x)


def on_shards(fn, split: PyTree, whole: PyTree) -> tuple[Any, Any]:
    """`fn(split, whole)` on every device -> (results split over the devices, results summed over them)."""

    def run(split, whole):
        rows, sums = fn(split, whole)
        return rows, total(sums)

    if jax.sharding.get_abstract_mesh().empty:
        return run(split, whole)
    specs = (PartitionSpec(AXIS), PartitionSpec())
    # Our VJPs call this forwards only, so the bookkeeping of replication for gradients is not needed.
    return jax.shard_map(run, in_specs=specs, out_specs=specs, check_vma=False)(split, whole)


def tiling(batch: int, plan: Plan) -> tuple[int, int]:
    """Rows of a tile, as equal as can be, and the batch padded to whole tiles on every device."""
    rows = -(-batch // _devices())
    tiles = -(-rows // plan.tile)
    tile = -(-rows // tiles)
    return tile, tile * tiles * _devices()


def _padded(tree, rows: int) -> Any:
    pad = lambda x: jnp.pad(x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1))
    return jax.tree.map(lambda x: x if len(x) == rows else pad(x), tree)


def side(x: tuple[Array, ...], image_id: Array, extra: PyTree, rows: int) -> Side:
    """A whole side, padded to `rows`."""
    x, image_id, extra = _padded((x, image_id, extra), rows)
    return Side(x, jnp.arange(rows, dtype=jnp.int32), image_id, extra)


def gathers(plan: Plan, x: tuple[Array, ...]) -> bool:
    """Whether all columns come at once; `x` are a device's own."""
    size = _devices() * sum(leaf.size * leaf.dtype.itemsize for leaf in x)
    return plan.form == "gather" or (plan.form == "auto" and size <= GATHER_BYTES)


def dot(a: Array, b: Array, axes: tuple[int, int], dtype: str) -> Array:
    """A product over axis `axes[0]` of a and `axes[1]` of b, summed in the dtype of `a`."""
    precise = a.dtype
    if dtype == "bfloat16":
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    contract = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, contract, preferred_element_type=precise)


def scores_of(rows: Side, columns: Side, products, batch: int | None, dtype: str) -> Tile:
    """The tile of these rows and columns; `batch` is given where rows were added to fill the tiles."""
    scores = tuple(dot(rows.x[i], columns.x[j], (1, 1), dtype) for i, j in products)
    negative = rows.image_id[:, None] != columns.image_id[None, :]
    if batch is not None:
        negative &= (rows.id < batch)[:, None] & (columns.id < batch)[None, :]
    return Tile(scores, negative, rows.id, columns.id)


def _shift(tree: PyTree, by: int = 1) -> PyTree:
    n = _devices()
    if n == 1:
        return tree
    order = [(i, (i + by) % n) for i in range(n)]
    return jax.tree.map(lambda x: lax.ppermute(x, AXIS, order), tree)


def _block(
    visit, rows: Side, columns: Side, carry: PyTree, tile: tuple[int, int], weight, triangle: bool
) -> PyTree:
    """Visits every tile, of `tile` rows and columns, of this device's rows and the present columns.

    With `triangle`, rows and columns are the same, and a tile stands for its mirror image too: only
    those on and above the diagonal are visited, those on it with half the weight.
    """
    high, wide = len(rows.id) // tile[0], len(columns.id) // tile[1]
    down, across = np.triu_indices(high) if triangle else np.divmod(np.arange(high * wide), wide)
    down, across = jnp.asarray(down), jnp.asarray(across)

    def one(k, carry):
        row_state, column_state, whole = carry
        cut = lambda tree, at, size: jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, at, size), tree)
        put = lambda tree, part, at: jax.tree.map(
            lambda x, y: lax.dynamic_update_slice_in_dim(x, y, at, 0), tree, part
        )
        i, j = down[k] * tile[0], across[k] * tile[1]
        share = jnp.where(i == j, 0.5, 1.0) if triangle else weight
        sides = cut(rows, i, tile[0]), cut(columns, j, tile[1])
        states = cut(row_state, i, tile[0]), cut(column_state, j, tile[1])
        row_part, column_part, whole = visit(*sides, *states, whole, share)
        return put(row_state, row_part, i), put(column_state, column_part, j), whole

    return lax.fori_loop(0, len(down), one, carry)


def tour(visit, neutral, merge, rows: Side, columns: Side, whole, tile: int, plan: Plan, symmetric: bool):
    """Visits all tiles of this device's rows with every column -> (row state, column state, whole).

    `visit(rows, columns, row_state, column_state, whole, weight)` returns the three states anew;
    `neutral(side)` is the state before any visit, `merge` joins two. With `symmetric`, both sides are
    the same rows, every unordered pair of tiles is visited once with weight 1, or, where it is its own
    mirror image or two devices meet in it, twice or from both ends with weight 1/2.
    """
    n, state, square = _devices(), neutral(rows), (tile, tile)
    if n > 1 and gathers(plan, columns.x):
        everything = jax.tree.map(lambda x: lax.all_gather(x, AXIS, tiled=True), columns)
        carry = (state, neutral(everything), whole)
        parts = len(everything.id) // tile  # a shard's tiles may be small: as many as fit make one
        wide = tile * max(k for k in range(1, max(plan.tile // tile, 1) + 1) if parts % k == 0)
        weight = 0.5 if symmetric else 1.0
        carry = _block(visit, rows, everything, carry, (tile, wide), weight, triangle=False)
        state, gathered, whole = carry
        parts = jax.tree.map(
            lambda x: lax.all_to_all(x.reshape(n, -1, *x.shape[1:]), AXIS, 0, 0), gathered
        )  # every device's share of my columns
        first, others = (jax.tree.map(lambda x, at=at: x[at], parts) for at in (0, slice(1, None)))
        home, _ = lax.scan(lambda joined, part: (merge(joined, part), None), first, others)
        return state, home, whole

    def step(k, carry):
        columns, state, travelling, whole = carry
        following = _shift(columns)  # under way while the tiles are worked on
        weight = jnp.where(2 * k == n, 0.5, 1.0) if symmetric else 1.0
        carry = _block(visit, rows, columns, (state, travelling, whole), square, weight, triangle=False)
        return following, carry[0], _shift(carry[1]), carry[2]

    carry = (state, neutral(columns), whole)
    if not symmetric:
        _, *carry = lax.fori_loop(0, n, step, (columns, *carry))
        return tuple(carry)
    state, travelling, whole = _block(visit, rows, columns, carry, square, 1.0, triangle=True)
    if n == 1:
        return state, travelling, whole
    start = (_shift(columns), state, _shift(travelling), whole)
    _, state, travelling, whole = lax.fori_loop(1, n // 2 + 1, step, start)
    return state, _shift(travelling, -(n // 2 + 1)), whole


def pull_chosen(y, mine, slope, theirs, their_slope, plan: Plan) -> Float[Array, "b d"]:
    """The gradient of x where row i chose column mine[i] of `y`, and column j chose row theirs[j] of x.

        dx_i = slope_i y[mine_i] + sum over j with theirs_j = i of their_slope_j y_j

    A number below 0 chose nothing. Only `y` and a few numbers travel.
    """
    batch = len(mine)
    tile, padded = tiling(batch, plan)
    given = _padded((y, mine, slope, theirs, their_slope), padded)

    def shards(split, _):
        y, mine, slope, theirs, their_slope = split
        n, rows = _devices(), len(y)
        me = lax.axis_index(AXIS) if n > 1 else 0

        def add(dx, moving, offset):
            y, *sent = moving
            cut = lambda x, k: lax.dynamic_slice_in_dim(x, k * tile, tile)

            def chosen_by_me(k, dx):
                place = cut(mine, k) - offset
                weight = jnp.where((place >= 0) & (place < len(y)), cut(slope, k), 0)
                part = cut(dx, k) + weight[:, None] * y[jnp.clip(place, 0, len(y) - 1)]
                return lax.dynamic_update_slice_in_dim(dx, part, k * tile, 0)

            def choosing_me(k, dx):
                place, weight = (cut(x, k) for x in sent)
                place = place - me * rows
                place = jnp.where((place >= 0) & (place < rows), place, rows)  # elsewhere: dropped
                return dx.at[place].add(weight[:, None] * cut(y, k), mode="drop")

            dx = lax.fori_loop(0, rows // tile, chosen_by_me, dx)
            return lax.fori_loop(0, len(y) // tile, choosing_me, dx)

        moving = (y, theirs, their_slope)
        if n > 1 and gathers(plan, (y,)):
            everything = jax.tree.map(lambda x: lax.all_gather(x, AXIS, tiled=True), moving)
            return add(jnp.zeros_like(y), everything, 0), ()

        def step(k, carry):
            dx, moving = carry
            following = _shift(moving)
            return add(dx, moving, (me - k) % n * rows), following

        return lax.fori_loop(0, n, step, (jnp.zeros_like(y), moving))[0], ()

    return on_shards(shards, given, ())[0][:batch]
