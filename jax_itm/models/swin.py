"""The Swin Transformer, as in the transformers library."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_itm.arrays import NEG_INF
from jax_itm.models.layers import Mlp, Tokens, maybe_remat
from jax_itm.models.vit import normalise_pixels
from jax_itm.types import Array, Bool, Float, Inputs

EPS = 1e-5  # of the LayerNorms after the patches and in merging, whatever config.json says of the others


def relative_position_index(window: int, table: int) -> np.ndarray:
    """(window^2, window^2): for each pair of positions in a window, a row of the bias table.

    The table is that of windows of side `table`, which may be larger.
    """
    axes = np.meshgrid(np.arange(window), np.arange(window), indexing="ij")
    position = np.stack(axes).reshape(2, -1)
    down, across = position[:, :, None] - position[:, None, :] + table - 1
    return down * (2 * table - 1) + across


def shift_regions(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """(height, width): which part of the unshifted grid each position of a shifted one comes from.

    Positions of different parts share a window without being neighbours, and must not attend to each other.
    """
    band = lambda size: np.digitize(np.arange(size), [size - window, size - shift])
    return band(height)[:, None] * 3 + band(width)[None]


def window_partition(x: Array, window: int) -> Array:
    """(b, h, v, ..) -> (b, windows, window^2, ..); h and v are whole windows."""
    b, h, v, *rest = x.shape
    x = x.reshape(b, h // window, window, v // window, window, *rest)
    return jnp.moveaxis(x, 3, 2).reshape(b, -1, window * window, *rest)


def window_merge(x: Array, window: int, height: int, width: int) -> Array:
    """The inverse of `window_partition`: (b, windows, window^2, ..) -> (b, height, width, ..)."""
    rest = x.shape[3:]
    x = x.reshape(x.shape[0], height // window, width // window, window, window, *rest)
    return jnp.moveaxis(x, 2, 3).reshape(x.shape[0], height, width, *rest)


class WindowAttention(nn.Module):
    """Self-attention inside each window, with a learnt bias for every offset between two positions.

    Attributes:
        heads: of the attention.
        table: side of the windows that the biases are for.
        dtype: of the computation; the softmax is float32.
    """

    heads: int
    table: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m n d"], visible: Bool[Array, "m n n"] | None
    ) -> Float[Array, "b m n d"]:
        """Of m windows of n positions; `visible` where a window holds positions that are no neighbours."""
        size = x.shape[-1] // self.heads
        project = lambda name: nn.DenseGeneral((self.heads, size), dtype=self.dtype, name=name)(x)
        query = project("query")
        key = project("key")
        value = project("value")
        rows = (2 * self.table - 1) ** 2
        biases = self.param("biases", nn.initializers.normal(0.02), (rows, self.heads))
        index = relative_position_index(math.isqrt(x.shape[2]), self.table)
        scores = jnp.einsum("bmqad,bmkad->bmaqk", query, key).astype(jnp.float32) / math.sqrt(size)
        scores = scores + jnp.moveaxis(biases[index], 2, 0)
        if visible is not None:
            scores = jnp.where(visible[None, :, None], scores, NEG_INF)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bmaqk,bmkad->bmqad", weights, value)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=self.dtype, name="out")(mixed)


class SwinLayer(nn.Module):
    """A pre-norm layer on a grid, which is padded with zeros to whole windows.

    Attributes:
        heads: of the attention.
        mlp: width of the MLP's hidden layer.
        window: side of a window.
        shifted: whether the windows are shifted by half their side.
        act: activation of the MLP, one of `layers.ACTIVATIONS`.
        norm_eps: of the LayerNorms.
        dtype: of the computation.
    """

    heads: int
    mlp: int
    window: int
    shifted: bool
    act: str
    norm_eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h v d"]) -> Float[Array, "b h v d"]:
        """One window, unshifted, if the grid is no larger."""
        norm = lambda name: nn.LayerNorm(self.norm_eps, dtype=self.dtype, name=name)
        height, width = x.shape[1:3]
        window = min(self.window, height, width)
        shift = self.window // 2 if self.shifted and min(height, width) > self.window else 0
        padding = [(0, 0), (0, -height % window), (0, -width % window), (0, 0)]
        y = jnp.pad(norm("norm_attention")(x), padding)
        rows, columns = y.shape[1:3]
        visible = None
        if shift:
            y = jnp.roll(y, (-shift, -shift), (1, 2))
            regions = jnp.asarray(shift_regions(rows, columns, window, shift))
            region = window_partition(regions[None], window)[0]
            visible = region[:, :, None] == region[:, None, :]
        attention = WindowAttention(self.heads, self.window, self.dtype, name="attention")
        y = window_merge(attention(window_partition(y, window), visible), window, rows, columns)
        y = jnp.roll(y, (shift, shift), (1, 2))[:, :height, :width]
        x = x + y
        mlp = Mlp(self.mlp, x.shape[-1], dtype=self.dtype, act=self.act, name="mlp")
        return x + mlp(norm("norm_mlp")(x))


class PatchMerging(nn.Module):
    """Four neighbours become one position of twice the width; an odd edge is padded with zeros.

    Attributes:
        dtype: of the computation.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h v d"]) -> Float[Array, "b h2 v2 d2"]:
        """Half the height and width, rounded up."""
        x = jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)])
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = nn.LayerNorm(EPS, dtype=self.dtype, name="norm")(jnp.concatenate(parts, axis=-1))
        return nn.Dense(x.shape[-1] // 2, use_bias=False, dtype=self.dtype, name="linear")(x)


class Swin(nn.Module):
    """The Swin Transformer (Liu et al., "Swin Transformer: Hierarchical Vision Transformer", ICCV 2021).

    Stages of layers with windows, every other one shifted, and merging between the stages. Tokens are the
    last stage's positions, a 32nd of the picture each way. It has no class token.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> image = {"pixels": jnp.zeros((2, 32, 32, 3), jnp.uint8)}
        >>> swin = Swin(depths=(1, 1), heads=(2, 2), width=8, window=4)
        >>> swin.apply(swin.init(jax.random.key(0), image), image).features.shape
        (2, 16, 16)

    Attributes:
        depths: layers of each stage.
        heads: attention heads of the layers of each stage.
        width: of the first stage; each next one is twice as wide.
        mlp_ratio: width of a layer's MLP over the layer's own.
        act: activation of the MLPs, one of `layers.ACTIVATIONS`.
        norm_eps: of the layers' LayerNorms.
        patch: side of a patch in pixels.
        window: side of a window in patches.
        scale: pixels p of 0 to 255 become `(p scale - mean) / std`.
        mean: of each colour.
        std: of each colour.
        remat: whether the backward pass computes the layers again instead of keeping their activations.
        dtype: of the computation.
    """

    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    width: int = 96
    mlp_ratio: float = 4.0
    act: str = "gelu"
    norm_eps: float = 1e-5
    patch: int = 4
    window: int = 7
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5,) * 3
    std: tuple[float, ...] = (0.5,) * 3
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, image: Inputs, train: bool = False) -> Tokens:
        """Takes `batch["image"]` with uint8 pixels; the last patches are padded with zeros."""
        x = self._embed_patches(image["pixels"])
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            if stage:
                x = PatchMerging(self.dtype, name=f"merge_{stage}")(x)
            for index in range(depth):
                layer = maybe_remat(SwinLayer, self.remat, static_argnums=())(
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
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        return Tokens(x, jnp.ones(x.shape[:2], bool))

    def _embed_patches(self, pixels: Array) -> Float[Array, "b h v width"]:
        x = normalise_pixels(pixels, self.scale, self.mean, self.std, self.dtype)
        side = self.patch
        x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % side), (0, -x.shape[2] % side), (0, 0)])
        window = (side, side)
        x = nn.Conv(self.width, window, window, "VALID", dtype=self.dtype, name="patches")(x)
        return nn.LayerNorm(EPS, dtype=self.dtype, name="norm_first")(x)
