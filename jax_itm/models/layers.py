"""Layers that several encoders share. Compute in `dtype`, parameters in float32."""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.types import Array, Bool, Float, Int

MASKED = -1e9  # a score or a feature that must lose; finite, so that 0 * MASKED stays a number

ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # CLIP's
}


class Encoded(NamedTuple):
    """What an encoder returns: float32 whatever the compute type."""

    embedding: Float[Array, "b d"]  # L2-normalised
    tokens: Float[Array, "b n d"]  # regions, patches or words before pooling
    mask: Bool[Array, "b n"]  # those that took part
    origin: Float[Array, "b n d"] | None = None  # CDDS: the tokens before they were decoupled; else none
    modality: Float[Array, "b n d"] | None = None  # CDDS: the other component, beside the semantic `tokens`


def l2_normalise(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Rows of length one; a zero row stays zero, with a zero gradient."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def drop_tokens(module: nn.Module, mask: Bool[Array, "b n"], rate: float) -> Bool[Array, "b n"]:
    """Hides each token with probability `rate` (training only); never all tokens of a row."""
    if rate == 0:
        return mask
    kept = mask & jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, mask.shape)
    return jnp.where(jnp.any(kept, axis=1, keepdims=True), kept, mask)


def drop_features(module: nn.Module, x: Float[Array, "b n f"], rate: float) -> Float[Array, "b n f"]:
    """Dropout (training only) that leaves out the same features of all tokens of an item.

    What pooling would average away if each token lost features of its own.
    """
    if rate == 0:
        return x
    kept = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, (x.shape[0], 1, x.shape[2]))
    return jnp.where(kept, x / (1 - rate), 0)


class Mlp(nn.Module):
    """Linear, ReLU (or another of `ACTIVATIONS`), linear, whose kernel starts as `last` says."""

    hidden: int
    out: int
    dtype: jnp.dtype = jnp.dtype("float32")
    act: str = "relu"
    last: nn.initializers.Initializer = nn.linear.default_kernel_init

    @nn.compact
    def __call__(self, x: Float[Array, "*b f"]) -> Float[Array, "*b out"]:
        """Applies the two layers to the last axis."""
        x = nn.Dense(self.hidden, dtype=self.dtype)(x)
        x = ACTIVATIONS[self.act](x)
        return nn.Dense(self.out, dtype=self.dtype, kernel_init=self.last)(x)


class Gru(nn.Module):
    """A GRU over axis 1 (Cho et al., 2014, in cuDNN's form) that steps over masked positions.

    A masked step leaves the state as it was: a padded or dropped word is as if it were not there, in
    either direction. The input products of all steps are one matrix product before the scan.
    """

    hidden: int
    reverse: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "b n f"], mask: Bool[Array, "b n"]) -> Float[Array, "b n hidden"]:
        """The state after each step; zeros before the first real one."""
        size = self.hidden
        gates = nn.Dense(3 * size, dtype=self.dtype, name="input")(x)
        recurrent = self.param("recurrent", nn.initializers.orthogonal(), (size, 3 * size))
        bias = self.param("recurrent_bias", nn.initializers.zeros, (3 * size,))
        recurrent, bias = recurrent.astype(self.dtype), bias.astype(self.dtype)

        def step(state, inputs):
            gate, real = inputs
            own = state @ recurrent + bias
            reset, update = jnp.split(nn.sigmoid(gate[:, : 2 * size] + own[:, : 2 * size]), 2, axis=1)
            candidate = jnp.tanh(gate[:, 2 * size :] + reset * own[:, 2 * size :])
            state = jnp.where(real[:, None], (1 - update) * candidate + update * state, state)
            return state, state

        start = jnp.zeros((x.shape[0], size), self.dtype)
        steps = (jnp.moveaxis(gates, 1, 0), jnp.moveaxis(mask, 1, 0))
        _, states = jax.lax.scan(step, start, steps, reverse=self.reverse)
        return jnp.moveaxis(states, 0, 1)


class BiGru(nn.Module):
    """Two GRUs, forward and backward, averaged."""

    hidden: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "b n f"], mask: Bool[Array, "b n"]) -> Float[Array, "b n hidden"]:
        """The mean of the two directions' states at each step."""
        forward = Gru(self.hidden, dtype=self.dtype, name="forward")(x, mask)
        backward = Gru(self.hidden, reverse=True, dtype=self.dtype, name="backward")(x, mask)
        return (forward + backward) / 2


class TransformerLayer(nn.Module):
    """A transformer layer: pre-norm as ViT (`post_norm=False`) or post-norm as BERT.

    `causal`: a position sees none after it (CLIP's words). `scaled`: what a part adds is weighted by a learnt
    vector (pre-norm only; DINOv2's LayerScale, Touvron et al., 2021). `still`: both parts start by adding
    nothing, so that the layer starts as the identity (pre-norm only).
    """

    heads: int
    mlp: int
    dropout: float = 0.0
    post_norm: bool = False
    norm_eps: float = 1e-6
    dtype: jnp.dtype = jnp.dtype("float32")
    act: str = "gelu_tanh"
    causal: bool = False
    scaled: bool = False
    still: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], train: bool
    ) -> Float[Array, "b n d"]:
        """Self-attention over the true positions, then the MLP, each with its residual."""
        norm = lambda name: nn.LayerNorm(self.norm_eps, dtype=self.dtype, name=name)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        last = nn.initializers.zeros if self.still else nn.linear.default_kernel_init
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            deterministic=True,
            force_fp32_for_softmax=True,
            out_kernel_init=last,
        )
        mlp = Mlp(self.mlp, x.shape[-1], dtype=self.dtype, act=self.act, last=last)
        see = mask[:, None, None, :]
        if self.causal:
            see = see & jnp.tril(jnp.ones((x.shape[1],) * 2, bool))
        if self.post_norm:
            x = norm("norm_attention")(x + drop(attention(x, x, mask=see)))
            return norm("norm_mlp")(x + drop(mlp(x)))
        y = norm("norm_attention")(x)
        x = x + self._scale("scale_attention", drop(attention(y, y, mask=see)))
        return x + self._scale("scale_mlp", drop(mlp(norm("norm_mlp")(x))))

    def _scale(self, name: str, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        if not self.scaled:
            return x
        return x * self.param(name, nn.initializers.ones, x.shape[-1:]).astype(self.dtype)


def recomputed(layer: type[nn.Module], remat: bool) -> Any:
    """`layer`, of (x, mask, train); with `remat` the backward pass computes its insides again."""
    return nn.remat(layer, static_argnums=(3,)) if remat else layer


def mean_pool(x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """The mean over the true tokens."""
    weight = mask[..., None].astype(x.dtype)
    return jnp.sum(x * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1)


def max_pool(x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """The maximum over the true tokens, dimension by dimension."""
    return jnp.max(jnp.where(mask[..., None], x, MASKED), axis=1)


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
    x = jnp.where(mask[..., None], x, MASKED)
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
        table = nn.softmax(jnp.where(lengths, logits / self.temperature, MASKED), axis=1)
        return pool_by_rank(x, mask, table[jnp.maximum(jnp.sum(mask, axis=1), 1) - 1])


def pool(name: str, x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """`gpo`, `mean` or `max` pooling, in float32; call it inside a module's compact method."""
    pools = {"gpo": lambda x, mask: Gpo(name="gpo")(x, mask), "mean": mean_pool, "max": max_pool}
    return pools[name](x.astype(jnp.float32), mask)
