"""The pretrained towers that see patches: ViT, DINOv2 and CLIP's."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jax_itm.models.layers import TransformerLayer, recomputed
from jax_itm.types import Array, Float, Inputs


def look(
    pixels: Array, scale: float, mean: tuple[float, ...], std: tuple[float, ...], dtype: jnp.dtype
) -> Float[Array, "b h v 3"]:
    """`(p scale - mean) / std` of pixels uint8 (b, h, v, 3), as a tower's preprocessor says."""
    x = pixels.astype(jnp.float32) * scale
    return ((x - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)).astype(dtype)


def cubic_weights(size: int, out: int, antialias: bool) -> np.ndarray:
    """The matrix (out, size) of bicubic resizing along one axis, as PyTorch's `interpolate` does it.

    Keys (1981) with a = -0.75 and repeated edges; with `antialias` as PIL: a = -0.5, a wider kernel where the
    axis shrinks, and edges left out.
    """
    a, step = (-0.5 if antialias else -0.75), size / out
    centre = (np.arange(out)[:, None] + 0.5) * step - 0.5
    stretch = max(step, 1.0) if antialias else 1.0
    taps = np.floor(centre) + np.arange(-1, 3) if not antialias else np.arange(size)[None] + 0 * centre
    x = np.abs(taps - centre) / stretch
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0))
    weights = weights / weights.sum(1, keepdims=True)
    if antialias:
        return weights
    matrix = np.zeros((out, size))
    np.add.at(matrix, (np.arange(out)[:, None], np.clip(taps, 0, size - 1).astype(int)), weights)
    return matrix


class Vision(nn.Module):
    """A Vision Transformer with a class token (Dosovitskiy et al., 2021), as ViT, DINOv2 or CLIP has it.

    Tokens: the class, registers (Darcet et al., 2024) and patches, after the last LayerNorm, which CLIP
    itself takes of the class alone. For pictures of another size than it was trained on, the positions are
    resized as the transformers library does.
    """

    layers: int
    heads: int
    width: int
    mlp: int
    act: str
    norm_eps: float
    patch: int
    image_size: int  # that the positions are of
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5,) * 3
    std: tuple[float, ...] = (0.5,) * 3
    registers: int = 0
    antialias: bool = False  # in resizing positions
    norm_first: bool = False  # CLIP's LayerNorm before the layers, and patches without bias
    scaled: bool = False  # DINOv2's LayerScale
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, image: Inputs, train: bool = False) -> Float[Array, "b n width"]:
        """Takes `batch["image"]` with uint8 pixels; rows and columns that fill no patch are left out."""
        x = look(image["pixels"], self.scale, self.mean, self.std, self.dtype)
        window = (self.patch, self.patch)
        patches = nn.Conv(
            self.width,
            window,
            window,
            "VALID",
            use_bias=not self.norm_first,
            dtype=self.dtype,
            name="patches",
        )
        x, normal = patches(x), nn.initializers.normal(0.02)
        rows, columns = x.shape[1:3]
        each = lambda name, count: jnp.broadcast_to(
            self.param(name, normal, (1, count, self.width)).astype(self.dtype), (len(x), count, self.width)
        )
        x = jnp.concatenate([each("cls", 1), x.reshape(len(x), -1, self.width)], axis=1)
        x = x + self._positions(rows, columns).astype(self.dtype)
        if self.registers:
            x = jnp.concatenate([x[:, :1], each("registers", self.registers), x[:, 1:]], axis=1)
        if self.norm_first:
            x = nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm_first")(x)
        mask = jnp.ones(x.shape[:2], bool)
        for index in range(self.layers):
            layer = recomputed(TransformerLayer, self.remat)(
                self.heads,
                self.mlp,
                norm_eps=self.norm_eps,
                dtype=self.dtype,
                act=self.act,
                scaled=self.scaled,
                name=f"layer_{index}",
            )
            x = layer(x, mask, train)
        return nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm")(x)

    def _positions(self, rows: int, columns: int) -> Float[Array, "1 n width"]:
        side = self.image_size // self.patch
        normal = nn.initializers.normal(0.02)
        table = self.param("positions", normal, (1, 1 + side * side, self.width))
        if (rows, columns) == (side, side):
            return table
        grid = table[0, 1:].reshape(side, side, self.width)
        down, across = (jnp.asarray(cubic_weights(side, n, self.antialias)) for n in (rows, columns))
        grid = jnp.einsum("rh,cv,hvd->rcd", down, across, grid.astype(jnp.float32))
        return jnp.concatenate([table[:, :1], grid.reshape(1, -1, self.width)], axis=1)
