"""The mesh axis, and everything that devices send to one another."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import PartitionSpec

from jax_itm.types import Array, PyTree

AXIS = "data"


def devices() -> int:
    """Their number in the mesh; 1 without one."""
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


def after(done: Array, tree: PyTree) -> Any:
    """`tree` as it is, of floats, but not before `done` has been computed.

    Two walks at once, or the zeros of one that lie there during the other, cost shards of memory, and XLA
    sees through an optimization_barrier here. A finite number times 0 changes nothing.
    """
    zero = 0 * lax.stop_gradient(done).ravel()[0]
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)


def gathered(tree: PyTree) -> Any:
    """The leaves of all devices, in their order, on every device."""
    return jax.tree.map(lambda x: lax.all_gather(x, AXIS, tiled=True), tree)


def sent_home(tree: PyTree) -> Any:
    """Of leaves that every device has for all rows, all devices' parts of this device's rows: (n, ..)."""
    n = devices()
    return jax.tree.map(lambda x: lax.all_to_all(x.reshape(n, -1, *x.shape[1:]), AXIS, 0, 0), tree)


def shift(tree: PyTree, by: int = 1) -> Any:
    """Every device's leaves, moved on to the device `by` places further round the ring."""
    n = devices()
    if n == 1:
        return tree
    order = [(i, (i + by) % n) for i in range(n)]
    return jax.tree.map(lambda x: lax.ppermute(x, AXIS, order), tree)
