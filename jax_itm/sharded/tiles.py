"""The sharded similarity matrix: never a whole matrix, and all the collectives.

Of the B x B scores of a global batch, a device holds one `tile` x `tile` part at a time. Its own rows
stay; the columns come by. In the *ring*, every device passes its columns on to the next one, and with
them what has been gathered for those columns so far (their maxima and sums, or their gradients): one
trip serves both directions of retrieval, and memory is a few shards, whatever the batch. Where all
columns are small enough, they are *gathered* instead, which takes one collective. Both give the same.

Here are a tile, and what passes between devices; `walk.py` is the walk, `pairs.py` what losses make of
it. Outside a mesh (a notebook, a unit test) there is one device. The mesh is the one set by
`jax.set_mesh`; models and methods never see it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_itm.sharded.collectives import devices
from jax_itm.types import Array, Bool, Float, Int, NamedTuple, PyTree

GATHER_BYTES = 16 * 2**20  # the columns of all devices, up to which `auto` gathers them


class Plan(NamedTuple):
    """How the matrix is walked; `config.similarity`. No choice changes a result but by rounding."""

    form: str = "auto"  # | ring | gather
    tile: int = 0  # the largest height and width of a part; 0 chooses by the kind of device
    dtype: str = "float32"  # of the products: as the embeddings, or "bfloat16"; sums stay float32


PLAN = Plan()


class Products(NamedTuple):
    """Which products are the scores of a tile: (i, j) is x[i] of its rows by x[j] of its columns."""

    learnt: tuple[tuple[int, int], ...]
    constant: tuple[tuple[int, int], ...] = ()  # they come after the learnt ones and have no gradient
    mix: Callable[[tuple], tuple] = lambda x: x  # linear, of a tile's embeddings before the products


MATRIX = Products(((0, 0),))  # one matrix of the first (only) embedding of either side


class Side(NamedTuple):
    """Rows of one side of the matrix: k of them, all of a device's or a tile's."""

    x: tuple[Float[Array, "k d"], ...]
    id: Int[Array, "k"]  # global row numbers
    image_id: Int[Array, "k"]
    extra: PyTree  # what a function of a tile knows of each row; leaves (k,)


class Tile(NamedTuple):
    """What a function of a tile sees."""

    scores: tuple[Float[Array, "r c"], ...]  # one array for each product
    negative: Bool[Array, "r c"]  # pairs of different images; same-image captions are never negatives
    row: Int[Array, "r"]  # global row numbers
    column: Int[Array, "c"]


def largest(plan: Plan) -> int:
    """The largest height and width of a tile."""
    if plan.tile or jax.default_backend() != "cpu":
        return plan.tile or 2048
    # Several CPU devices are one core each, whose cache holds a few arrays of 256 x 256; one device's
    # products are shared by all cores, which pays when they are larger.
    return 256 if devices() > 1 else 1024


def tiling(batch: int, plan: Plan) -> tuple[int, int]:
    """Rows of a tile, as equal as can be, and the batch padded to whole tiles on every device."""
    rows = -(-batch // devices())
    tiles = -(-rows // largest(plan))
    tile = -(-rows // tiles)
    return tile, tile * tiles * devices()


def padded(tree: PyTree, rows: int) -> Any:
    """The leaves with zero rows added up to `rows`."""
    pad = lambda x: jnp.pad(x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1))
    return jax.tree.map(lambda x: x if len(x) == rows else pad(x), tree)


def side(x: tuple[Array, ...], image_id: Array, extra: PyTree, rows: int) -> Side:
    """A whole side, padded to `rows`."""
    x, image_id, extra = padded((x, image_id, extra), rows)
    return Side(x, jnp.arange(rows, dtype=jnp.int32), image_id, extra)


def gathers(plan: Plan, x: tuple[Array, ...]) -> bool:
    """Whether all columns come at once; `x` are a device's own."""
    size = devices() * sum(leaf.size * leaf.dtype.itemsize for leaf in x)
    return plan.form == "gather" or (plan.form == "auto" and size <= GATHER_BYTES)


def dot(a: Array, b: Array, axes: tuple[int, int], dtype: str) -> Array:
    """A product over axis `axes[0]` of a and `axes[1]` of b, summed in the dtype of `a`."""
    precise = a.dtype
    if dtype == "bfloat16":
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    contract = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, contract, preferred_element_type=precise)


def scores_of(rows: Side, columns: Side, products: Products, batch: int | None, dtype: str):
    """The tile of these rows and columns, and the embeddings that were multiplied.

    `batch` is given where rows were added to fill the tiles.
    """
    x, y = products.mix(rows.x), products.mix(columns.x)
    scores = tuple(dot(x[i], y[j], (1, 1), dtype) for i, j in products.learnt + products.constant)
    negative = rows.image_id[:, None] != columns.image_id[None, :]
    if batch is not None:
        negative &= (rows.id < batch)[:, None] & (columns.id < batch)[None, :]
    return Tile(scores, negative, rows.id, columns.id), x, y
