"""The sharded similarity matrix, and its tiles, of which only one is in memory at a time.

Row i and column j of the B x B matrix meet in `s_ij = x_i . y_j`. Each device has its own B/n rows and B/n
columns; a tile is made of a slice of its rows and a slice of the columns that are there. `schedule.py` says
which tiles a device visits in which order, `reductions.py` what losses make of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_itm.errors import ArgumentError
from jax_itm.platforms import PRODUCT_TYPES, device_memory, is_cpu
from jax_itm.sharded.collectives import ONE_DEVICE, BatchAxes
from jax_itm.types import Array, Bool, Float, Int, PyTree

GATHER_BYTES = 16 * 2**20  # the columns of all devices, up to which the schedule "auto" gathers them anywhere
GATHER_SHARE = 1 / 32  # of an accelerator's memory for the columns of a group; their gradients take as much
KEEP_SHARE = 1 / 6  # of an accelerator's memory for the scores of a device's rows
WIDE_SHARE = 1 / 64  # of an accelerator's memory for the scores of a tile, where those of all its rows fit


class Plan(NamedTuple):
    """How the matrix is traversed. No choice changes a result but by rounding.

    Attributes:
        schedule: "ring" passes the columns from device to device: memory is a few shards, whatever the batch.
            "gather" fetches all columns at once, in one collective. "auto" takes on accelerators the columns
            of as many devices at a time as 1/32 of their memory holds, and keeps the scores that a backward
            pass needs again where 1/6 holds them; on CPUs it takes all columns where they are small. On one
            device the ring and the gather are the same.
        tile: the largest height and width of a tile; 0 chooses by the kind of device.
        dtype: of the products: "float32", which is full precision on every platform; "tf32", on GPUs what it
            says and on TPUs three bfloat16 passes; or "bfloat16". Sums stay float32.
    """

    schedule: str = "auto"
    tile: int = 0
    dtype: str = "float32"


PLAN = Plan()
SCHEDULES = ("auto", "ring", "gather")


class Products(NamedTuple):
    """Which products are the scores of a tile: (i, j) is x[i] of its rows by x[j] of its columns."""

    learnt: tuple[tuple[int, int], ...]
    constant: tuple[tuple[int, int], ...] = ()  # they come after the learnt ones and have no gradient
    mix: Callable[[tuple], tuple] = lambda x: x  # linear, of a tile's embeddings before the products


SCORES = Products(((0, 0),))  # one matrix, of the first (only) embedding of either side


class Side(NamedTuple):
    """One side of the matrix: its rows, or its columns. All leaves have the batch on axis 0."""

    x: tuple[Float[Array, "b d"], ...]
    image_ids: Int[Array, "b"]  # equal numbers mark captions of one image
    per_row: PyTree = ()  # floats that a function of a tile knows of each row, with gradient
    constants: PyTree = ()  # the same without gradient


class Block(NamedTuple):
    """Some rows of a side: all of a device's, padded to whole tiles, or those of one tile."""

    x: tuple[Float[Array, "k d"], ...]
    id: Int[Array, "k"]  # global row numbers; -1 where padded
    image_ids: Int[Array, "k"]
    per_row: PyTree
    constants: PyTree


class Tile(NamedTuple):
    """What a function of a tile sees."""

    scores: tuple[Float[Array, "r c"], ...]  # one array for each product
    negative: Bool[Array, "r c"]  # pairs of different images; same-image captions are never negatives
    row: Int[Array, "r"]  # global row numbers
    column: Int[Array, "c"]


@dataclass(frozen=True)
class Matrix:
    """The matrix of a global batch: its size, how it is split over devices, and how it is traversed.

    Hashable: custom VJPs take it as a static argument.
    """

    batch: int
    axes: BatchAxes = ONE_DEVICE
    plan: Plan = PLAN
    products: Products = SCORES

    def __post_init__(self):
        for name, choices in (("schedule", SCHEDULES), ("dtype", tuple(PRODUCT_TYPES))):
            if getattr(self.plan, name) not in choices:
                value = getattr(self.plan, name)
                raise ArgumentError(f"plan.{name}={value!r}: must be one of {', '.join(choices)}")
        if self.plan.tile < 0:
            raise ArgumentError(f"plan.tile={self.plan.tile}: must be 0 or more")

    def of(self, products: Products) -> "Matrix":
        """The same with other scores."""
        return replace(self, products=products)

    @property
    def rows(self) -> int:
        """Rows of a device."""
        return self.batch // self.axes.devices

    @property
    def largest_tile(self) -> int:
        """The largest height and width of a tile."""
        if self.plan.tile or not is_cpu():
            return self.plan.tile or 2048
        # Several CPU devices are one core each, whose cache holds a few arrays of 256 x 256; one device's
        # products are shared by all cores, which pays when they are larger.
        return 256 if self.axes.devices > 1 else 1024

    @property
    def tiles(self) -> int:
        """Tiles along a device's rows."""
        return -(-self.rows // self.largest_tile)

    @property
    def tile(self) -> int:
        """Height and width of a tile, as equal as can be."""
        return -(-self.rows // self.tiles)

    def tile_width(self, group: int) -> int:
        """Width of a tile of a group's columns: where a device's tiles are small, several in one.

        Accelerators fill the area of the largest tile, since every turn of a loop has a price; and more where
        all scores of a device fit, since what turns add to is cleared first. A CPU's cache, and who asks for
        a size, want no side longer.
        """
        there = self.tiles * group
        most = self.largest_tile // self.tile
        if not (self.plan.tile or is_cpu()):
            most = most**2
            if self.keeps_scores:
                scores = len(self.products.learnt + self.products.constant)
                most = max(most, int(device_memory() * WIDE_SHARE / (4 * scores * self.tile**2)))
        most = min(max(most, 1), there)
        return self.tile * max(k for k in range(1, most + 1) if there % k == 0)

    def group(self, x: tuple[Array, ...], symmetric: bool = False) -> int:
        """How many devices' columns are on a device at a time; `x` are a device's own.

        "auto" takes as many as memory allows: fewer steps, each with more work in one piece. A ring in groups
        of one does half of a symmetric matrix, which is worth more there unless everything is small.
        """
        devices = self.axes.devices
        if self.plan.schedule != "auto":
            return devices if self.plan.schedule == "gather" else 1
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in x)
        if devices * size <= GATHER_BYTES:
            return devices
        if is_cpu() or symmetric:
            return 1
        budget = device_memory() * GATHER_SHARE
        return max(k for k in range(1, devices + 1) if devices % k == 0 and (k == 1 or k * size <= budget))

    @property
    def keeps_scores(self) -> bool:
        """Whether scores that are needed again are kept, and not formed again from their embeddings.

        One product of four less for InfoNCE, for as much memory as the device's strip of the matrix takes.
        """
        if self.plan.schedule != "auto" or is_cpu() or self.tile * self.tiles > self.rows:
            return False
        return self.rows * self.batch * 4 <= device_memory() * KEEP_SHARE

    def place(self, tile: "Tile") -> tuple[Array, Array]:
        """Where a tile stands in the strip (rows, batch) of this device's rows."""
        return tile.row[0] - self.axes.index() * self.rows, tile.column[0]

    def block(self, side: Side) -> Block:
        """A device's own rows of a side, numbered, and padded to whole tiles. Inside `on_shards`."""
        rows = self.rows
        padded = self.tile * self.tiles
        number = jnp.arange(padded, dtype=jnp.int32)
        row_id = jnp.where(number < rows, self.axes.index() * rows + number, -1).astype(jnp.int32)
        pad = lambda x: jnp.pad(x, [(0, padded - rows)] + [(0, 0)] * (x.ndim - 1))
        side = jax.tree.map(pad, side) if padded > rows else side
        return Block(side.x, row_id, side.image_ids, side.per_row, side.constants)

    def unpad(self, tree: PyTree) -> Any:
        """The leaves without the rows that `block` added."""
        return jax.tree.map(lambda leaf: leaf[: self.rows], tree)

    def scores(self, rows: Block, columns: Block, kept: Array | None = None) -> tuple[Tile, tuple, tuple]:
        """The tile of these rows and columns, and the embeddings that were multiplied.

        `kept` is the strip (rows, batch) of scores, where it was kept.
        """
        products = self.products
        x = products.mix(rows.x)
        y = products.mix(columns.x)
        pairs = products.learnt + products.constant
        negative = rows.image_ids[:, None] != columns.image_ids[None, :]
        if self.tile * self.tiles > self.rows:
            negative &= (rows.id >= 0)[:, None] & (columns.id >= 0)[None, :]
        tile = Tile((), negative, rows.id, columns.id)
        if kept is None:
            scores = tuple(self.dot(x[i], y[j], (1, 1)) for i, j in pairs)
        else:
            scores = (lax.dynamic_slice(kept, self.place(tile), negative.shape),)
        return tile._replace(scores=scores), x, y

    def dot(self, a: Array, b: Array, axes: tuple[int, int]) -> Array:
        """A product over axis `axes[0]` of a and `axes[1]` of b, summed in the dtype of `a`."""
        precise = a.dtype
        cast, precision = PRODUCT_TYPES[self.plan.dtype]
        if cast is not None:
            a = a.astype(cast)
            b = b.astype(cast)
        contract = (((axes[0],), (axes[1],)), ((), ()))
        return lax.dot_general(a, b, contract, precision=precision, preferred_element_type=precise)
