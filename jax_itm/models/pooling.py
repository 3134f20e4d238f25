"""Pooling a set of tokens into one vector: mean, max and GPO."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.arrays import NEG_INF, mean_pool
from jax_itm.models.layers import BiGru
from jax_itm.types import Array, Bool, Float, Int


def max_pool(x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """The maximum over the true tokens, dimension by dimension."""
    return jnp.max(jnp.where(mask[..., None], x, NEG_INF), axis=1)


def sinusoidal(positions: int, size: int) -> Float[Array, "n size"]:
    """Sine and cosine position codes (Vaswani et al., 2017, section 3.5)."""
    angle = jnp.arange(positions)[:, None] * jnp.exp(jnp.arange(0, size, 2) * (-math.log(10_000.0) / size))
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(positions, size)


def descending_rank(x: Float[Array, "b n d"]) -> Int[Array, "b n d"]:
    """How many of a row's n values, dimension by dimension, come before each in descending order.

    Of equal values the first comes first. Counted, n comparisons a value: XLA's sort on CPUs, with its
    backward pass, took 3 to 11 times as long for n from 16 to 196 (BENCHMARKS.md).
    """
    x = jax.lax.stop_gradient(x)
    place = jnp.arange(x.shape[1])[:, None]

    def count(j, rank):
        other = jax.lax.dynamic_slice_in_dim(x, j, 1, axis=1)
        return rank + ((other > x) | ((other == x) & (j < place)))

    return jax.lax.fori_loop(0, x.shape[1], count, jnp.zeros(x.shape, jnp.int32))


def pool_by_rank(
    x: Float[Array, "b n d"], mask: Bool[Array, "b n"], weights: Float[Array, "b n"]
) -> Float[Array, "b d"]:
    """The true tokens, each value weighted by its rank in its dimension; the largest takes the first."""
    x = jnp.where(mask[..., None], x, NEG_INF)
    weight = jnp.take_along_axis(weights[..., None], descending_rank(x), axis=1)
    return jnp.sum(jnp.where(weight > 0, x * weight, 0), axis=1)


class Gpo(nn.Module):
    """Generalised pooling (Chen et al., 2021, VSE-infinity, section 3.2).

    Weights for rank positions, from a small BiGRU over position codes, applied to each dimension's
    features in descending order. One weight vector a number of true tokens, shared by dimensions.
    """

    size: int = 32
    temperature: float = 0.1

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
        """Pools the true tokens of each row."""
        n = x.shape[1]
        lengths = jnp.arange(1, n + 1)[:, None] > jnp.arange(n)[None, :]  # row k has k + 1 ranks
        codes = jnp.broadcast_to(sinusoidal(n, self.size), (n, n, self.size))
        logits = nn.Dense(1, use_bias=False)(BiGru(self.size)(codes, lengths))[..., 0]
        table = nn.softmax(jnp.where(lengths, logits / self.temperature, NEG_INF), axis=1)
        return pool_by_rank(x, mask, table[jnp.maximum(jnp.sum(mask, axis=1), 1) - 1])


def pool(name: str, x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """`gpo`, `mean` or `max` pooling, in float32; call it inside a module's compact method."""
    pools = {"gpo": lambda x, mask: Gpo(name="gpo")(x, mask), "mean": mean_pool, "max": max_pool}
    return pools[name](x.astype(jnp.float32), mask)
