"""Recurrent layers that step over masked positions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.types import Array, Bool, Float


class Gru(nn.Module):
    """A GRU over axis 1 (Cho et al., 2014, in cuDNN's form) that steps over masked positions.

    A masked step leaves the state as it was: a padded or dropped word is as if it were not there, in
    either direction. The input products of all steps are one matrix product before the scan.

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
    def __call__(self, x: Float[Array, "b n f"], mask: Bool[Array, "b n"]) -> Float[Array, "b n hidden"]:
        """The state after each step; zeros before the first true one."""
        size = self.hidden
        gates = nn.Dense(3 * size, dtype=self.dtype, name="input")(x)
        recurrent = self.param("recurrent", nn.initializers.orthogonal(), (size, 3 * size))
        recurrent = recurrent.astype(self.dtype)
        bias = self.param("recurrent_bias", nn.initializers.zeros, (3 * size,)).astype(self.dtype)

        def step(state, inputs):
            gate, is_true = inputs
            own = state @ recurrent + bias
            reset, update = jnp.split(nn.sigmoid(gate[:, : 2 * size] + own[:, : 2 * size]), 2, axis=1)
            candidate = jnp.tanh(gate[:, 2 * size :] + reset * own[:, 2 * size :])
            state = jnp.where(is_true[:, None], (1 - update) * candidate + update * state, state)
            return state, state

        initial = jnp.zeros((x.shape[0], size), self.dtype)
        steps = (jnp.moveaxis(gates, 1, 0), jnp.moveaxis(mask, 1, 0))
        _, states = jax.lax.scan(step, initial, steps, reverse=self.reverse)
        return jnp.moveaxis(states, 0, 1)


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
        forward = Gru(self.hidden, dtype=self.dtype, name="forward")(x, mask)
        backward = Gru(self.hidden, reverse=True, dtype=self.dtype, name="backward")(x, mask)
        return (forward + backward) / 2
