"""Recurrent layers that step over masked positions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim

from jax_itm.models.packed_gru import Weights, pack, packed_gru
from jax_itm.platforms import is_one_cpu
from jax_itm.types import Array, Bool, Float

PACKED_FROM = 128  # narrower states take no time, and packing would be compiled for nothing


class Cell(NamedTuple):
    """One direction of a GRU, ready to be scanned.

    Attributes:
        gates: the input's part of the three gates at every step, the steps on axis 0.
        recurrent: what the state is multiplied with.
        bias: of that product.
        reverse: whether it runs from the last step to the first.
    """

    gates: Float[Array, "n b g"]
    recurrent: Float[Array, "hidden g"]
    bias: Float[Array, "g"]
    reverse: bool

    def step(self, state: Float[Array, "b hidden"], gate: Array, is_true: Array) -> Float[Array, "b hidden"]:
        """The next state; where a step is masked, the same."""
        size = state.shape[1]
        own = state @ self.recurrent + self.bias
        reset, update = jnp.split(nn.sigmoid(gate[:, : 2 * size] + own[:, : 2 * size]), 2, axis=1)
        candidate = jnp.tanh(gate[:, 2 * size :] + reset * own[:, 2 * size :])
        return jnp.where(is_true[:, None], (1 - update) * candidate + update * state, state)


def run_cells(cells: Sequence[Cell], mask: Bool[Array, "b n"]) -> list[Float[Array, "b n hidden"]]:
    """The states of every direction after each of its steps, all in one scan: half as many steps for two."""
    steps = jnp.moveaxis(mask, 1, 0)
    ordered = lambda cell, x: jnp.flip(x, 0) if cell.reverse else x

    def step(states: tuple[Array, ...], inputs: list[tuple[Array, Array]]) -> tuple[Any, Any]:
        states = tuple(cell.step(x, *each) for cell, x, each in zip(cells, states, inputs, strict=True))
        return states, states

    initial = tuple(jnp.zeros((mask.shape[0], len(cell.recurrent)), cell.gates.dtype) for cell in cells)
    inputs = [(ordered(cell, cell.gates), ordered(cell, steps)) for cell in cells]
    _, states = jax.lax.scan(step, initial, inputs)
    return [jnp.moveaxis(ordered(cell, x), 0, 1) for cell, x in zip(cells, states, strict=True)]


class Direction(NamedTuple):
    """A GRU's weights, in the compute type, and whether it runs from the last position to the first."""

    weights: Weights
    reverse: bool

    def cell(self, x: Float[Array, "b n f"]) -> Cell:
        """Ready to be scanned: the input products of all steps are one product."""
        gates = x @ self.weights.kernel + self.weights.bias
        return Cell(
            jnp.moveaxis(gates, 1, 0), self.weights.recurrent, self.weights.recurrent_bias, self.reverse
        )


def run_directions(
    directions: Sequence[Direction], x: Float[Array, "b n f"], mask: Bool[Array, "b n"]
) -> list[Float[Array, "b n hidden"]]:
    """The states of every direction after each position: packed on a single CPU, elsewhere scanned.

    Packing needs to know the number of rows, which an exported program does not.
    """
    is_wide = len(directions[0].weights.recurrent) >= PACKED_FROM
    if is_one_cpu() and is_wide and not is_symbolic_dim(mask.shape[0]):
        return [packed_gru(x, weights, pack(mask, reverse)) for weights, reverse in directions]
    return run_cells([direction.cell(x) for direction in directions], mask)


class Linear(nn.Module):
    """The parameters of an `nn.Dense`."""

    features: int

    @nn.compact
    def __call__(self, size: int) -> tuple[Float[Array, "f g"], Float[Array, "g"]]:
        """Kernel and bias for inputs of this size."""
        kernel = self.param("kernel", nn.linear.default_kernel_init, (size, self.features))
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,))


class Gru(nn.Module):
    """A GRU over axis 1 (Cho et al., 2014, in cuDNN's form) that steps over masked positions.

    A masked step leaves the state as it was: a padded or dropped word is as if it were not there, in
    either direction.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, mask = jnp.ones((2, 5, 3)), jnp.ones((2, 5), bool)
        >>> gru = Gru(hidden=4)
        >>> gru.apply(gru.init(jax.random.key(0), x, mask), x, mask).shape
        (2, 5, 4)

    Attributes:
        hidden: size of the state.
        reverse: whether it runs from the last position to the first.
        dtype: of the computation.
    """

    hidden: int
    reverse: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def direction(self, features: int) -> Direction:
        """The parameters, for inputs of this size."""
        size = self.hidden
        kernel, bias = Linear(3 * size, name="input")(features)
        recurrent = self.param("recurrent", nn.initializers.orthogonal(), (size, 3 * size))
        recurrent_bias = self.param("recurrent_bias", nn.initializers.zeros, (3 * size,))
        weights = Weights(kernel, bias, recurrent, recurrent_bias)
        return Direction(jax.tree.map(lambda x: x.astype(self.dtype), weights), self.reverse)

    def __call__(self, x: Float[Array, "b n f"], mask: Bool[Array, "b n"]) -> Float[Array, "b n hidden"]:
        """The state after each step; zeros before the first true one."""
        return run_directions([self.direction(x.shape[2])], x.astype(self.dtype), mask)[0]


class BiGru(nn.Module):
    """Two GRUs, forward and backward, averaged.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, mask = jnp.ones((2, 5, 3)), jnp.ones((2, 5), bool)
        >>> gru = BiGru(hidden=4)
        >>> gru.apply(gru.init(jax.random.key(0), x, mask), x, mask).shape
        (2, 5, 4)

    Attributes:
        hidden: size of each state.
        dtype: of the computation.
    """

    hidden: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "b n f"], mask: Bool[Array, "b n"]) -> Float[Array, "b n hidden"]:
        """The mean of the two directions' states at each step."""
        directions = [
            Gru(self.hidden, dtype=self.dtype, name="forward").direction(x.shape[2]),
            Gru(self.hidden, reverse=True, dtype=self.dtype, name="backward").direction(x.shape[2]),
        ]
        of_forward, of_backward = run_directions(directions, x.astype(self.dtype), mask)
        return (of_forward + of_backward) / 2
