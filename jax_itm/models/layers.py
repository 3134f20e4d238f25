"""Layers that several encoders share. Compute in `dtype`, parameters in float32."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.types import Array, Bool, Float

ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # CLIP's
}


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
