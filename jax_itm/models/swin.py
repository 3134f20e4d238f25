"""The Swin Transformer (Liu et al., 2021), as the transformers library has it: a pretrained tower."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_itm.arrays import NEG_INF
from jax_itm.models.layers import Mlp
from jax_itm.models.vit import look
from jax_itm.types import Array, Bool, Float, Inputs

EPS = 1e-5  # of the LayerNorms after the patches and in merging, whatever config.json says of the others


def offsets(window: int, table: int) -> np.ndarray:
    """(window^2, window^2): the row of a bias table for windows of side `table` for each pair of places."""
    place = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
    down, across = place[:, :, None] - place[:, None, :] + table - 1
    return down * (2 * table - 1) + across


def regions(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """(height, width): which part of the unshifted picture each place of a shifted one is of."""
    band = lambda size: np.digitize(np.arange(size), [size - window, size - shift])
    return band(height)[:, None] * 3 + band(width)[None]


def cut(x: Array, window: int) -> Array:
    """(b, h, v, ..) -> (b, windows, window^2, ..); h and v are whole windows."""
    b, h, v, *rest = x.shape
    x = x.reshape(b, h // window, window, v // window, window, *rest)
    return jnp.moveaxis(x, 3, 2).reshape(b, -1, window * window, *rest)


def joined(x: Array, window: int, height: int, width: int) -> Array:
    """What `cut` cut."""
    b, rest = len(x), x.shape[3:]
    x = x.reshape(b, height // window, width // window, window, window, *rest)
    return jnp.moveaxis(x, 2, 3).reshape(b, height, width, *rest)


class WindowAttention(nn.Module):
    """Self-attention inside each window, with a learnt bias for every offset between two places."""

    heads: int
    table: int  # the side of the windows that the biases are of
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m n d"], see: Bool[Array, "m n n"] | None
    ) -> Float[Array, "b m n d"]:
        """Of m windows of n places; `see` where a window holds places that are no neighbours."""
        size = x.shape[-1] // self.heads
        part = lambda name: nn.DenseGeneral((self.heads, size), dtype=self.dtype, name=name)(x)
        query, key, value = part("query"), part("key"), part("value")
        rows = (2 * self.table - 1) ** 2
        biases = self.param("biases", nn.initializers.normal(0.02), (rows, self.heads))
        index = offsets(math.isqrt(x.shape[2]), self.table)
        scores = jnp.einsum("bmqad,bmkad->bmaqk", query, key).astype(jnp.float32) / math.sqrt(size)
        scores = scores + jnp.moveaxis(biases[index], 2, 0)
        if see is not None:
            scores = jnp.where(see[None, :, None], scores, NEG_INF)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        seen = jnp.einsum("bmaqk,bmkad->bmqad", weights, value)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=self.dtype, name="out")(seen)


class SwinLayer(nn.Module):
    """A pre-norm layer on a grid, padded with zeros to whole windows; `shifted` by half a window."""

    heads: int
    mlp: int
    window: int
    shifted: bool
    act: str
    norm_eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h v d"]) -> Float[Array, "b h v d"]:
        """One window, unshifted, where the grid is no larger."""
        norm = lambda name: nn.LayerNorm(self.norm_eps, dtype=self.dtype, name=name)
        height, width = x.shape[1:3]
        window = min(self.window, height, width)
        shift = self.window // 2 if self.shifted and min(height, width) > self.window else 0
        pads = [(0, 0), (0, -height % window), (0, -width % window), (0, 0)]
        y = jnp.pad(norm("norm_attention")(x), pads)
        down, across, see = y.shape[1], y.shape[2], None
        if shift:
            y = jnp.roll(y, (-shift, -shift), (1, 2))
            part = cut(jnp.asarray(regions(down, across, window, shift))[None], window)[0]
            see = part[:, :, None] == part[:, None, :]
        attention = WindowAttention(self.heads, self.window, self.dtype, name="attention")
        y = joined(attention(cut(y, window), see), window, down, across)
        y = jnp.roll(y, (shift, shift), (1, 2))[:, :height, :width]
        x = x + y
        mlp = Mlp(self.mlp, x.shape[-1], dtype=self.dtype, act=self.act)
        return x + mlp(norm("norm_mlp")(x))


class Merging(nn.Module):
    """Four neighbours become one place of twice the width; an odd edge is padded with zeros."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h v d"]) -> Float[Array, "b h2 v2 d2"]:
        """Half the height and width, rounded up."""
        x = jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)])
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = nn.LayerNorm(EPS, dtype=self.dtype, name="norm")(jnp.concatenate(parts, axis=-1))
        return nn.Dense(x.shape[-1] // 2, use_bias=False, dtype=self.dtype, name="linear")(x)


class Swin(nn.Module):
    """Swin: stages of layers with windows, every other one shifted, and merging between the stages.

    Tokens: the last stage's places, a 32nd of the picture each way. It has no class token.
    """

    depths: tuple[int, ...]
    heads: tuple[int, ...]
    width: int  # of the first stage
    mlp_ratio: float
    act: str
    norm_eps: float
    patch: int
    window: int
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5,) * 3
    std: tuple[float, ...] = (0.5,) * 3
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, image: Inputs, train: bool = False) -> Float[Array, "b n d"]:
        """Takes `batch["image"]` with uint8 pixels; the last patches are padded with zeros."""
        x, patch = look(image["pixels"], self.scale, self.mean, self.std, self.dtype), self.patch
        x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % patch), (0, -x.shape[2] % patch), (0, 0)])
        window = (patch, patch)
        x = nn.Conv(self.width, window, window, "VALID", dtype=self.dtype, name="patches")(x)
        x = nn.LayerNorm(EPS, dtype=self.dtype, name="norm_first")(x)
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            if stage:
                x = Merging(self.dtype, name=f"merge_{stage}")(x)
            for index in range(depth):
                layer = (nn.remat(SwinLayer) if self.remat else SwinLayer)(
                    heads,
                    int(self.mlp_ratio * x.shape[-1]),
                    self.window,
                    index % 2 == 1,
                    self.act,
                    self.norm_eps,
                    self.dtype,
                    name=f"layer_{stage}_{index}",
                )
                x = layer(x)
        x = nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm")(x)
        return x.reshape(len(x), -1, x.shape[-1])
