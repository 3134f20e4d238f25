"""Distributed start, the mesh, and arrays from host to devices and back."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_itm.errors import UserError
from jax_itm.sharded.collectives import AXIS
from jax_itm.types import PyTree

SPLIT_SIZE = 2**12  # numbers in an array below which splitting it saves nothing


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh over the first `devices` devices (all by default), one axis.

    Linen needs Auto axes; JAX's default became Explicit in 0.9.
    """
    chosen = jax.devices()[: devices or len(jax.devices())]
    return jax.make_mesh((len(chosen),), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters: all of it on every device."""
    return NamedSharding(mesh, PartitionSpec())


def placed(mesh: Mesh, tree: PyTree, fsdp: bool) -> PyTree:
    """The sharding of every array of a training state; of arrays or their shapes.

    With `fsdp` an array of at least `SPLIT_SIZE` numbers is split over the devices along its longest axis
    that they divide (Rajbhandari et al., ZeRO, 2020; Zhao et al., FSDP, 2023): parameters, moments and
    averages have the same shapes, and so lie together. All else is on every device.
    """

    def one(x) -> NamedSharding:
        even = [axis for axis, size in enumerate(x.shape) if size % mesh.size == 0]
        if not fsdp or x.size < SPLIT_SIZE or not even:
            return replicated(mesh)
        axis = max(even, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))

    return jax.tree.map(one, tree)


def by_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: axis 0 split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def for_host(mesh: Mesh) -> NamedSharding:
    """The sharding of results that each process reads: by rows where one process has all devices."""
    return by_rows(mesh) if jax.process_count() == 1 else replicated(mesh)


def shard_rows(mesh: Mesh, local: PyTree) -> PyTree:
    """Global arrays from each process's own rows (its contiguous slice of the global batch)."""
    sharding = by_rows(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), local)


def shard_whole(mesh: Mesh, batch: PyTree) -> PyTree:
    """Global arrays from a batch that every process holds whole."""
    sharding = by_rows(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), batch
    )


def whole(tree: PyTree) -> PyTree:
    """Arrays on this host, of arrays of which other processes may hold parts: all must call it together."""

    def one(x) -> np.ndarray:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            x = multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    return jax.tree.map(one, tree)


def check_batch(batch_size: int, devices: int, field: str, micro_batches: int = 1) -> None:
    """Raises UserError where a batch, or its micro-batches, cannot be split evenly."""
    unit = devices * micro_batches
    if batch_size % unit:
        near = max(unit, batch_size // unit * unit)
        parts = f" times {micro_batches} micro-batches" if micro_batches > 1 else ""
        raise UserError(f"{field}={batch_size}: {devices} devices{parts} do not divide it; {near} would do")
