"""The sharded similarity matrix: the only room with collectives.

A loss over all pairs of a batch is written once, as what *one device* does with its own rows:
it gathers the other rows, forms its block of scores, reduces, and sums over the devices.

    def rows(v, t, image_id):                      # this device's rows, (b/n, ...)
        scores = v @ gather(t).T                   # (b/n, b)
        return total(jnp.sum(f(scores)))           # a scalar, equal on all devices
    loss = over_rows(rows, v, t, image_id)

Outside a mesh (a notebook, a unit test) there is one device and the collectives are the identity.
The mesh is the one set by `jax.set_mesh`; models and methods never see it. Gradients are taken
outside `over_rows`: inside `shard_map`, grad-then-mean would be n times too large.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jax_itm.types import Array, Bool, Float, Int, NamedTuple, PyTree

AXIS = "data"


def over_rows(fn: Callable[..., Any], *arrays: PyTree) -> Any:
    """Runs `fn` on every device's own rows; its results must be equal on all devices.

    Every leaf of `arrays` is split on axis 0 over the mesh. What `fn` closes over is replicated.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return fn(*arrays)
    spec = PartitionSpec(AXIS)
    return jax.shard_map(fn, in_specs=spec, out_specs=PartitionSpec())(*arrays)


def gather(x: PyTree) -> PyTree:
    """All rows of all devices, in global order: leaves (b/n, ...) -> (b, ...)."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS, tiled=True), x)


def total(x: PyTree) -> PyTree:
    """The sum over the devices of every leaf."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.tree.map(lambda leaf: lax.psum(leaf, AXIS), x)


def row_ids(rows: int) -> Int[Array, "k"]:
    """The global numbers of this device's `rows` rows."""
    start = 0 if jax.sharding.get_abstract_mesh().empty else lax.axis_index(AXIS) * rows
    return start + jnp.arange(rows)


class Rows(NamedTuple):
    """One device's rows of a score matrix, one row an anchor, one column a candidate."""

    scores: Float[Array, "k b"]
    own: Bool[Array, "k b"]  # the matched pair: one True a row
    negative: Bool[Array, "k b"]  # pairs of different images; same-image captions are neither
    ids: Int[Array, "k"]  # global row numbers

    @property
    def positive(self) -> Float[Array, "k"]:
        """The scores of the matched pairs."""
        return jnp.sum(jnp.where(self.own, self.scores, 0), axis=1)


def score_rows(queries: Float[Array, "k d"], gallery: Float[Array, "k d"], image_id: Int[Array, "k"]) -> Rows:
    """This device's rows of `queries @ gallery.T` with the masks. Call it inside `over_rows`."""
    ids = row_ids(queries.shape[0])
    columns, column_image = gather((gallery, image_id))
    own = ids[:, None] == jnp.arange(columns.shape[0])[None, :]
    negative = image_id[:, None] != column_image[None, :]
    return Rows(queries @ columns.T, own, negative, ids)
