"""Equal modules with different parameters, compiled only once on accelerators.

TPU compilers need ten seconds or more for a transformer layer, forward and backward, and as long for each of
the others. There, one loop over stacked parameters replaces them. On CPUs, which compile quickly and would
copy the parameters in every step, they run one after the other. Names, and so checkpoints, are the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.platforms import is_cpu
from jax_itm.types import Array, PyTree


def in_turn(layers: Sequence[nn.Module], x: Array, *args: Any) -> tuple[Array, Array]:
    """`x` through bound modules alike, each called as `layer(x, *args)`.

    Returns:
        The output of the last, and its input.
    """
    before = x
    if _one_by_one(layers):
        for layer in layers:
            before, x = x, layer(x, *args)
        return x, before
    call, values = _stacked(layers)
    step = lambda carry, value: ((call(value, carry[0], *args), carry[0]), None)
    (x, before), _ = jax.lax.scan(step, (x, before), values)
    return x, before


def outputs_in_turn(layers: Sequence[nn.Module], x: Array, *args: Any) -> Sequence[Array]:
    """The outputs of bound modules alike, each of which takes that of the one before."""
    outputs = []
    if _one_by_one(layers):
        for layer in layers:
            x = layer(x, *args)
            outputs.append(x)
        return outputs
    call, values = _stacked(layers)

    def step(x: Array, value: PyTree) -> tuple[Array, Array]:
        x = call(value, x, *args)
        return x, x

    _, stacked = jax.lax.scan(step, x, values)
    return [stacked[k] for k in range(len(layers))]


def side_by_side(modules: Sequence[nn.Module], *args: Any) -> Sequence[Array]:
    """The outputs of bound modules alike for the same arguments."""
    if _one_by_one(modules):
        return [module(*args) for module in modules]
    call, values = _stacked(modules)
    outputs = jax.lax.map(lambda value: call(value, *args), values)
    return [outputs[k] for k in range(len(modules))]


def _one_by_one(modules: Sequence[nn.Module]) -> bool:
    return is_cpu() or len(modules) < 2 or modules[0].is_initializing()


def _stacked(modules: Sequence[nn.Module]) -> tuple[Callable[..., Array], PyTree]:
    """A function of (values, *args) that is each of the modules, and the values of all, stacked."""
    first = modules[0]
    alike = first.clone(parent=None, name=None)
    params = [module.variables["params"] for module in modules]
    keys = jax.random.split(first.make_rng("dropout"), len(modules)) if first.has_rng("dropout") else None

    def call(values: PyTree, *args: Any) -> Array:
        params, key = values
        output: Any = alike.apply({"params": params}, *args, rngs={} if key is None else {"dropout": key})
        return output

    return call, (jax.tree.map(lambda *leaves: jnp.stack(leaves), *params), keys)
