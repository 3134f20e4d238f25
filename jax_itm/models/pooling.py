"""Pooling a set of tokens into one vector: mean, max, GPO and HREM's."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.arrays import NEG_INF, mean_pool
from jax_itm.models.layers import TransformerLayer
from jax_itm.models.recurrent import BiGru
from jax_itm.platforms import is_cpu, is_one_cpu
from jax_itm.types import Array, Bool, Float, Int

RANK_SLOPE = 0.3  # of GPO's logits over the ranks: it starts with weights of 0.26, 0.19, 0.14, ..


def max_pool(x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """The maximum over the true tokens, dimension by dimension."""
    return jnp.max(jnp.where(mask[..., None], x, NEG_INF), axis=1)


def sinusoidal(positions: int, size: int) -> Float[Array, "n size"]:
    """Sine and cosine position codes (Vaswani et al., 2017, section 3.5)."""
    angle = jnp.arange(positions)[:, None] * jnp.exp(jnp.arange(0, size, 2) * (-math.log(10_000.0) / size))
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(positions, size)


def descending_rank(x: Float[Array, "b n d"]) -> Int[Array, "b n d"]:
    """How many of an item's n values, dimension by dimension, precede each in descending order.

    Of equal values the first comes first. Counted, n comparisons a value, for CPUs: XLA's sort there, with
    its backward pass, took 3 to 11 times as long for n from 16 to 196 (docs/benchmarks/training_steps.md).
    """
    x = jax.lax.stop_gradient(x)
    return jax.vmap(lambda item: _rank_in_item(item, item.shape[0]))(x)


def _rank_in_item(x: Float[Array, "n d"], count: int | Int[Array, ""]) -> Int[Array, "n d"]:
    """`descending_rank` of one item; `count` is how many of the first values are compared with."""
    index = jnp.arange(x.shape[0])[:, None]

    def add(j: Array, rank: Array) -> Array:
        other = jax.lax.dynamic_slice_in_dim(x, j, 1)
        return rank + ((other > x) | ((other == x) & (j < index)))

    return jax.lax.fori_loop(0, count, add, jnp.zeros(x.shape, jnp.int32))


def pool_by_rank(
    x: Float[Array, "b n d"], mask: Bool[Array, "b n"], weights: Float[Array, "b n"]
) -> Float[Array, "b d"]:
    """The weighted sum of the true tokens: in each dimension the k-th largest value has the k-th weight.

    On CPUs every value looks its weight up by its counted rank. On accelerators, where that is a gather of
    single numbers and slower than the rest of a training step, values are sorted and meet the weights as
    they stand; the backward pass sorts the weights back.
    """
    x = jnp.where(mask[..., None], x, NEG_INF)
    if not is_cpu():
        return pool_sorted(x, weights)
    if is_one_cpu():
        last = jnp.max(jnp.where(mask, jnp.arange(1, x.shape[1] + 1), 1), axis=1)
        return pool_item_by_item(x, weights, last)
    weight = jnp.take_along_axis(weights[..., None], descending_rank(x), axis=1)
    return jnp.sum(jnp.where(weight > 0, x * weight, 0), axis=1)


@jax.custom_vjp
def pool_item_by_item(
    x: Float[Array, "b n d"], weights: Float[Array, "b n"], last: Int[Array, "b"]
) -> Float[Array, "b d"]:
    """`pool_by_rank` of true tokens on one CPU: an item stays in the cache, and its padding is not counted.

    Args:
        x: the tokens; padding is NEG_INF.
        weights: of the ranks; 0 from the number of an item's true tokens on.
        last: how many of an item's first tokens hold all true ones.
    """
    return _pool_item_by_item_forward(x, weights, last)[0]


def _pool_item_by_item_forward(x: Array, weights: Array, last: Array) -> tuple[Array, tuple[Array, ...]]:
    def item(inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        x, weights, last = inputs
        rank = _rank_in_item(x, last)
        weight = weights[rank]
        return jnp.sum(jnp.where(weight > 0, x * weight, 0), axis=0), rank

    pooled, rank = jax.lax.map(item, (x, weights, last))
    return pooled, (x, weights, last, rank)


def _pool_item_by_item_backward(saved: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, None]:
    def item(inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        x, weights, last, rank, cotangent = inputs
        of_rank = lambda k: jnp.sum(jnp.where(rank == k, x * cotangent, 0))
        add = lambda k, sums: sums.at[k].set(of_rank(k))  # a sum a rank, where a scatter adds one by one
        of_weights = jax.lax.fori_loop(0, last, add, jnp.zeros_like(weights))
        return weights[rank] * cotangent, jnp.where(weights > 0, of_weights, 0)

    return *jax.lax.map(item, (*saved, cotangent)), None


pool_item_by_item.defvjp(_pool_item_by_item_forward, _pool_item_by_item_backward)


@jax.custom_vjp
def pool_sorted(x: Float[Array, "b n d"], weights: Float[Array, "b n"]) -> Float[Array, "b d"]:
    """`pool_by_rank` of true tokens by sorting, neither with a gather nor, backwards, with a scatter."""
    return _pool_sorted_forward(x, weights)[0]


def _pool_sorted_forward(x: Array, weights: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    token = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    negated, place = jax.lax.sort((-x, token), dimension=1, num_keys=1, is_stable=True)
    weight = weights[..., None]
    pooled = jnp.sum(jnp.where(weight > 0, -negated * weight, 0), axis=1)
    return pooled, (negated, place, weights)


def _pool_sorted_backward(saved: tuple[Array, Array, Array], cotangent: Array) -> tuple[Array, Array]:
    negated, place, weights = saved
    weight = weights[..., None]
    by_rank = jnp.broadcast_to(weight, place.shape)
    _, by_token = jax.lax.sort((place, by_rank), dimension=1, num_keys=1)
    of_weights = jnp.sum(jnp.where(weight > 0, -negated, 0) * cotangent[:, None], axis=2)
    return by_token * cotangent[:, None], of_weights


pool_sorted.defvjp(_pool_sorted_forward, _pool_sorted_backward)


def top_mean(x: Float[Array, "b n d"], mask: Bool[Array, "b n"], k: int) -> Float[Array, "b d"]:
    """The mean of the `k` largest values of each dimension over the true tokens; of all if they are fewer."""
    count = jnp.maximum(jnp.minimum(jnp.sum(mask, axis=1, keepdims=True), k), 1)
    weights = jnp.where(jnp.arange(x.shape[1]) < count, 1 / count, 0).astype(x.dtype)
    return pool_by_rank(x, mask, weights)


class Gpo(nn.Module):
    """GPO, generalised pooling (Chen et al., "Learning the Best Pooling Strategy for VSE", CVPR 2021).

    Weights for rank positions, from a small BiGRU over position codes, are applied to the features of each
    dimension in descending order. There is one weight vector for each number of true tokens, which all
    dimensions share: docs/methods/dias.md, equation (4).

    We depart in the start: the BiGRU adds nothing at first, and each rank weighs exp(-0.3) of the one before.
    As released, random numbers divided by the temperature decide which ranks count, some of them low ones,
    and runs differ by where they start (docs/benchmarks/flickr8k_minilm.md).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, mask = jnp.ones((2, 3, 8)), jnp.ones((2, 3), bool)
        >>> gpo = Gpo()
        >>> gpo.apply(gpo.init(jax.random.key(0), x, mask), x, mask).shape
        (2, 8)

    Attributes:
        size: of the position codes and of the BiGRU.
        temperature: of the softmax over rank positions.
    """

    size: int = 32
    temperature: float = 0.1

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
        """Pools the true tokens of each item."""
        n = x.shape[1]
        has_rank = jnp.arange(1, n + 1)[:, None] > jnp.arange(n)[None, :]  # row k: for k + 1 true tokens
        codes = jnp.broadcast_to(sinusoidal(n, self.size), (n, n, self.size))
        score = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros, name="score")
        logits = score(BiGru(self.size, name="gru")(codes, has_rank))[..., 0] / self.temperature
        logits = logits - RANK_SLOPE * jnp.arange(n)
        table = nn.softmax(jnp.where(has_rank, logits, NEG_INF), axis=1)
        return pool_by_rank(x, mask, table[jnp.maximum(jnp.sum(mask, axis=1), 1) - 1])


class HremPooling(nn.Module):
    """HREM's pooling, from its authors' released code (github.com/CrossmodalGroup/HREM, lib/encoders.py).

        v = 0.8 mean of the 2 largest values of x + 0.2 mean of Layer(x)

    both over the true tokens of one item; `Layer` is one post-norm transformer layer of 16 heads, whose MLP
    is as wide as a token. Fu et al., "Learning Semantic Relationship among Instances for Image-Text
    Matching", CVPR 2023. Departures: no dropout inside the MLP, and if 16 does not divide the width, as many
    heads as their greatest common divisor.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, mask = jnp.ones((2, 3, 8)), jnp.ones((2, 3), bool)
        >>> pooling = HremPooling()
        >>> pooling.apply(pooling.init(jax.random.key(0), x, mask), x, mask).shape
        (2, 8)

    Attributes:
        heads: of the transformer layer.
        largest: how many values of a dimension the first part averages.
        residual_weight: of the first part.
        dropout: inside the transformer layer.
    """

    heads: int = 16
    largest: int = 2
    residual_weight: float = 0.8
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Pools the true tokens of each item."""
        width = x.shape[-1]
        layer = TransformerLayer(
            math.gcd(self.heads, width),
            width,
            dropout=self.dropout,
            attention_dropout=self.dropout,
            post_norm=True,
            norm_eps=1e-5,
            act="relu",
            name="layer",
        )
        related = mean_pool(layer(x, mask, train), mask)
        largest = top_mean(x, mask, self.largest)
        return self.residual_weight * largest + (1 - self.residual_weight) * related


def pool(
    name: str, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], train: bool = False
) -> Float[Array, "b d"]:
    """`gpo`, `hrem`, `mean` or `max` pooling in float32; to call inside a module's compact method."""
    x = x.astype(jnp.float32)
    if name == "gpo":
        return Gpo(name="gpo")(x, mask)
    if name == "hrem":
        return HremPooling(name="hrem")(x, mask, train)
    return {"mean": mean_pool, "max": max_pool}[name](x, mask)
