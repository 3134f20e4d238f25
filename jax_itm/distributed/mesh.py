"""The mesh, the shardings used on it, and arrays between the host and the devices."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_itm.errors import UserError
from jax_itm.types import Array, PyTree

AXIS = "data"  # the axis of the trainer's mesh: it splits batches, and with fsdp the state
MIN_SHARDED_SIZE = 2**12  # elements; sharding a smaller array saves nothing


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh with one axis over the first `devices` devices, by default over all of them."""
    available = jax.devices()
    return mesh_over(available[: devices or len(available)])


def mesh_over(devices: Sequence[Any]) -> Mesh:
    """A mesh with one Auto axis over the devices, in the order that JAX lists them: row by row of a slice.

    Linen needs Auto axes; JAX's default is Explicit since 0.9. In a snake all neighbours of a ring would be
    one link apart, not only those of a row. But the compiler has no way for collectives over parts of a v5e
    or v6e in that order, such as it makes where 8 lists of candidates are split over 32 chips, and stops. The
    way back from the end of a row uses links that no other step of the ring does.

    Over several CPU devices it turns off JAX's cache of compiled programs for this process: jaxlib 0.10.2
    does not keep the order of collectives there. A program from the cache hangs, or gives wrong values.
    """
    if len(devices) > 1 and devices[0].platform == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX looks at the option once
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: axis 0 is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def state_sharding(mesh: Mesh, state: PyTree, fsdp: bool) -> PyTree:
    """The sharding of every array of a training state.

    With `fsdp`, an array of at least `MIN_SHARDED_SIZE` elements is split over the devices along the longest
    of its axes that they divide (Rajbhandari et al., ZeRO, 2020; Zhao et al., FSDP, 2023). Parameters, their
    moments and their averages have equal shapes and are therefore sharded alike. All other arrays are
    replicated.

    Args:
        mesh: the devices.
        state: arrays or their shapes.
        fsdp: whether to split large arrays.

    Returns:
        A tree like `state` with a sharding for each array.
    """

    def sharding(array: jax.Array | jax.ShapeDtypeStruct) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(array.shape) if size % mesh.size == 0]
        if not fsdp or array.size < MIN_SHARDED_SIZE or not divisible:
            return replicated(mesh)
        longest = max(divisible, key=lambda axis: array.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, AXIS))

    return jax.tree.map(sharding, state)


def host_readable(mesh: Mesh) -> NamedSharding:
    """The sharding of results that every process reads: split only if one process has all the devices."""
    return batch_sharded(mesh) if jax.process_count() == 1 else replicated(mesh)


def shard_local_batch(mesh: Mesh, rows: PyTree) -> PyTree:
    """A global batch from each process's own `rows`: its contiguous slice of every array."""
    sharding = batch_sharded(mesh)
    make = jax.make_array_from_process_local_data
    return jax.tree.map(lambda array: make(sharding, np.asarray(array)), rows)


def shard_global_batch(mesh: Mesh, batch: PyTree) -> PyTree:
    """A global batch from a `batch` of which every process has all rows."""
    sharding = batch_sharded(mesh)
    make = jax.make_array_from_callback
    return jax.tree.map(lambda array: make(array.shape, sharding, lambda index: array[index]), batch)


def per_device(mesh: Mesh, value: int) -> Array:
    """An int32 array (devices,), batch-sharded: each process's `value` in the entries of its devices."""
    local = np.full(len(mesh.local_devices), value, np.int32)
    return jax.make_array_from_process_local_data(batch_sharded(mesh), local)


def to_host(tree: PyTree) -> PyTree:
    """Numpy arrays of full size from arrays that may be split over processes, all of which must call this."""

    def full(array: jax.Array | np.ndarray) -> np.ndarray:
        if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
            array = multihost_utils.process_allgather(array, tiled=True)
        return np.asarray(array)

    return jax.tree.map(full, tree)


def check_batch(batch_size: int, devices: int, field: str, micro_batches: int = 1) -> None:
    """Raises UserError if a batch, or each of its micro-batches, cannot be split evenly over the devices."""
    unit = devices * micro_batches
    if batch_size % unit:
        nearest = max(unit, batch_size // unit * unit)
        parts = f" times {micro_batches} micro-batches" if micro_batches > 1 else ""
        raise UserError(
            f"{field}={batch_size}: not divisible by {devices} devices{parts}; the nearest that is: {nearest}"
        )
