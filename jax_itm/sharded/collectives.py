"""The mesh axes that a batch is split over, and everything that devices send to one another.

The mesh is the one that `jax.set_mesh` has set; without one there is one device. Which of its axes split the
batch is an argument, `BatchAxes`; the others are free for the model. Inside the losses every device does its
own rows, and devices that differ only in a free axis repeat one another's work.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.sharding import PartitionSpec

from jax_itm.errors import ArgumentError
from jax_itm.types import Array, PyTree

Axis = str | tuple[str, ...]


@dataclass(frozen=True)
class BatchAxes:
    """The mesh axes over which the rows of a batch are split; none without a mesh.

    Devices are numbered along `names`, the last axis fastest, as `PartitionSpec((names,))` lays out the rows.
    """

    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def devices(self) -> int:
        """The number of parts that the batch is split into."""
        return math.prod(self.sizes)

    @property
    def spec(self) -> PartitionSpec:
        """How arrays with the batch on axis 0 are split."""
        return PartitionSpec(self.names) if self.names else PartitionSpec()

    def index(self) -> Any:
        """This device's number, inside `on_shards`."""
        return lax.axis_index(self.names) if self.devices > 1 else 0

    def sum(self, tree: PyTree) -> Any:
        """Every leaf summed over the devices, inside `on_shards`."""
        return jax.tree.map(lambda x: lax.psum(x, self.names), tree) if self.names else tree

    def groups(self, size: int) -> list[list[int]] | None:
        """Groups of `size` devices that follow one another; None for one of all."""
        n = self.devices
        return None if size == n else [list(range(start, start + size)) for start in range(0, n, size)]

    def gather(self, tree: PyTree, group: int) -> Any:
        """The leaves of all devices of a group one after the other, on each of them."""
        if group == 1:
            return tree
        groups = self.groups(group)
        gather = lambda x: lax.all_gather(x, self.names, tiled=True, axis_index_groups=groups)
        return jax.tree.map(gather, tree)

    def exchange(self, tree: PyTree, group: int) -> Any:
        """All parts (g, ..) of this device's rows; each device of the group has one for all its rows."""
        groups = self.groups(group)
        split = lambda x: x.reshape(group, -1, *x.shape[1:])
        exchange = lambda x: lax.all_to_all(split(x), self.names, 0, 0, axis_index_groups=groups)
        return jax.tree.map(exchange, tree)

    def sum_scatter(self, tree: PyTree, group: int) -> Any:
        """The sum of the parts of this device's rows; each device of the group has one for all its rows."""
        groups = self.groups(group)
        scatter = lambda x: lax.psum_scatter(x, self.names, tiled=True, axis_index_groups=groups)
        return jax.tree.map(scatter, tree)

    def shift(self, tree: PyTree, by: int = 1) -> Any:
        """Every device's leaves, passed on to the device `by` places further round the ring."""
        n = self.devices
        if n == 1:
            return tree
        place = self._places()
        ring = [(place[k], place[(k + by) % n]) for k in range(n)]
        return jax.tree.map(lambda x: lax.ppermute(x, self.names, ring), tree)

    def _places(self) -> list[int]:
        """The number by which `ppermute` knows each device: it counts in the mesh's order of axes."""
        mesh = jax.sharding.get_abstract_mesh()
        in_mesh = sorted(self.names, key=mesh.axis_names.index)
        stride = {}
        step = 1
        for name in reversed(in_mesh):
            stride[name] = step
            step *= mesh.shape[name]
        places = product(*map(range, self.sizes))  # in our order
        return [sum(k * stride[name] for k, name in zip(at, self.names, strict=True)) for at in places]


ONE_DEVICE = BatchAxes()


def batch_axes(axis: Axis) -> BatchAxes:
    """The axes of the present mesh that `axis` names, one or a tuple.

    Raises:
        ArgumentError: the mesh has no such axis, or the call is inside a `shard_map` over it.
    """
    names = (axis,) if isinstance(axis, str) else tuple(axis)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return ONE_DEVICE
    for name in names:
        if name not in mesh.axis_names:
            known = ", ".join(map(repr, mesh.axis_names))
            raise ArgumentError(
                f"axis={axis!r}: the mesh has no axis {name!r}; pass the axis that splits the batch,"
                f" of {known}, or a tuple of them"
            )
        if name in mesh.manual_axes:
            raise ArgumentError(
                f"axis={axis!r}: this is inside a shard_map over {name!r}; call the loss outside of it, on"
                " global arrays, and take the gradient there"
            )
    if len(set(names)) < len(names):
        raise ArgumentError(f"axis={axis!r}: names an axis twice")
    return BatchAxes(names, tuple(mesh.shape[name] for name in names))


def check_split(axes: BatchAxes, name: str, x: Any) -> None:
    """Raises ArgumentError where rows cannot be split over `axes`, or are split while no mesh is set.

    Under `jit` an array on a mesh of Auto axes does not tell whether it is split or replicated, and with
    Explicit axes JAX itself wants a mesh: without one, both are refused either way.
    """
    if len(x) % axes.devices:
        over = " x ".join(f"{n} {size}" for n, size in zip(axes.names, axes.sizes, strict=True))
        raise ArgumentError(
            f"{name} has {len(x)} rows: {axes.devices} devices ({over}) do not divide them, and every device"
            " must have as many"
        )
    if not jax.sharding.get_abstract_mesh().empty:
        return
    if not isinstance(x, jax.Array):
        return
    mesh = jax.typeof(x).sharding.mesh
    split = not mesh.empty and mesh.size > 1
    if not isinstance(x, Tracer) and not mesh.explicit_axes:
        split = not x.sharding.is_fully_replicated
    if split:
        raise ArgumentError(
            f"{name} lies on several devices, but no mesh is set: call the loss, or the function around it,"
            " inside `with jax.set_mesh(mesh):`"
        )


def split_rows(axes: BatchAxes, tree: PyTree) -> Any:
    """The arrays with axis 0 split over `axes` and all else replicated, where the mesh has Explicit axes.

    With Auto axes the compiler does it by itself.
    """
    explicit = jax.sharding.get_abstract_mesh().explicit_axes
    if not explicit:
        return tree
    names = tuple(name for name in axes.names if name in explicit)
    spec = PartitionSpec(names) if names else PartitionSpec()
    return jax.tree.map(lambda x: jax.sharding.reshard(x, spec if x.ndim else PartitionSpec()), tree)


def over_rows(axes: BatchAxes, fn: Callable[..., Any], *arrays: PyTree) -> Any:
    """Runs `fn` on every device's own rows; its results must be equal on all devices. Differentiable.

    Every leaf of `arrays` is split on axis 0. What `fn` closes over is replicated. Gradients are taken
    outside: inside `shard_map`, grad-then-mean would be n times too large.
    """
    if not axes.names:
        return fn(*arrays)
    arrays = split_rows(axes, arrays)
    return jax.shard_map(fn, in_specs=axes.spec, out_specs=PartitionSpec(), axis_names=_free())(*arrays)


def per_row(axes: BatchAxes, fn: Callable[..., Any], *arrays: PyTree, replicated: tuple = ()) -> Any:
    """`fn(*arrays, *replicated)` on every device's own rows -> results that are split alike. Differentiable.

    Only needed with Explicit axes, where sorting and indexing rows would ask for a sharding.
    """
    if not axes.names or not jax.sharding.get_abstract_mesh().explicit_axes:
        return fn(*arrays, *replicated)
    arrays = split_rows(axes, arrays)
    replicated = split_rows(ONE_DEVICE, replicated)
    specs = (axes.spec,) * len(arrays) + (PartitionSpec(),) * len(replicated)
    on_rows = jax.shard_map(fn, in_specs=specs, out_specs=axes.spec, axis_names=_free())
    return on_rows(*arrays, *replicated)


def on_shards(
    axes: BatchAxes, fn: Callable[[Any, Any], tuple[Any, Any]], sharded: PyTree, replicated: PyTree
) -> tuple[Any, Any]:
    """`fn(sharded, replicated)` on every device -> (results that are split, results summed over devices)."""

    def run(sharded: PyTree, replicated: PyTree) -> tuple[Any, Any]:
        rows, sums = fn(sharded, replicated)
        return rows, axes.sum(sums)

    if not axes.names:
        return run(sharded, replicated)
    specs = (axes.spec, PartitionSpec())
    sharded = split_rows(axes, sharded)
    replicated = split_rows(ONE_DEVICE, replicated)
    # Our VJPs call this forwards only, so the bookkeeping of replication for gradients is not needed.
    run = jax.shard_map(run, in_specs=specs, out_specs=specs, axis_names=_free(), check_vma=False)
    return run(sharded, replicated)


def _free() -> set[str]:
    """The axes of the mesh that no surrounding `shard_map` has taken."""
    mesh = jax.sharding.get_abstract_mesh()
    return set(mesh.axis_names) - set(mesh.manual_axes)


def after(done: Array, tree: PyTree) -> Any:
    """`tree` as it is, of floats, but not before `done` has been computed.

    Two traversals at once, or the zeros of one that lie there during the other, cost shards of memory, and
    XLA sees through an optimization_barrier here. A finite number times 0 changes nothing.
    """
    done = lax.stop_gradient(done)
    explicit = jax.sharding.get_abstract_mesh().explicit_axes  # under which no single row can be indexed
    zero = 0 * (jnp.min(done) if explicit else done.ravel()[0])
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)
