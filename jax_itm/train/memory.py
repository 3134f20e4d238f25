"""Estimates whether a training step fits into a device, before compiling it for minutes."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jax_itm.checkpoint.state import State, split_stats, with_stats
from jax_itm.errors import LESS_MEMORY
from jax_itm.methods.base import Method
from jax_itm.platforms import device_memory, is_cpu
from jax_itm.types import Batch, PyTree

GIB = 2**30


class Need(NamedTuple):
    """Bytes on a device.

    Attributes:
        state: parameters, their gradients, the optimizer's state.
        activations: what the forward pass leaves to the backward pass.
    """

    state: int
    activations: int


def need(method: Method, state: State, batch: Batch, mesh: Mesh) -> Need:
    """What a training step needs at least, from shapes alone.

    For IAIS's base on a v5e 4x8 it says 18.7 GiB of activations, the compiler 22.1 of temporary memory. What
    is remade in the backward pass (`remat`) is not counted.

    Args:
        method: the model and its loss.
        state: shapes and shardings, or the state itself.
        batch: shapes of the global batch.
        mesh: over which the batch is split; it must be set.
    """
    trainable, stats = split_stats(_shapes(state.params))

    def backward(trainable: PyTree, stats: PyTree, batch: Batch) -> Any:
        key = jax.random.key(0)
        loss = lambda params: method.loss(with_stats(params, stats), batch, key, jnp.int32(0))[0]
        return jax.vjp(loss, trainable)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, trainable, stats, batch))
    parameters = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(trainable)}
    activations = sum(_bytes(leaf) for leaf in kept if (leaf.shape, leaf.dtype) not in parameters)
    gradients = split_stats(state.params)[0]
    return Need(_bytes_on_device(state) + _bytes_on_device(gradients), activations // mesh.size)


def shortage(method: Method, state: State, batch: Batch, mesh: Mesh) -> str:
    """A line that says that a training step will hardly fit into an accelerator; "" if it may."""
    if is_cpu():
        return ""
    limit = (mesh.devices.flat[0].memory_stats() or {}).get("bytes_limit", device_memory())
    needed = need(method, state, batch, mesh)
    if sum(needed) <= limit:
        return ""
    parts = f"{needed.state / GIB:.1f} of state and gradients, {needed.activations / GIB:.1f} of activations"
    return (
        f"this needs about {sum(needed) / GIB:.1f} GiB a device ({parts}) and there are {limit / GIB:.1f}:"
        f" {LESS_MEMORY} need less; python -m jax_itm compile tells how much"
    )


def _shapes(tree: PyTree) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _bytes_on_device(tree: PyTree) -> int:
    shard = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return sum(map(shard, jax.tree.leaves(tree)))
