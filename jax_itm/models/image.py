"""Image encoders: precomputed regions; a ViT or a pretrained tower from pixels."""

import flax.linen as nn
import jax.numpy as jnp

from jax_itm.arrays import Encoded, l2_normalise
from jax_itm.models import towers
from jax_itm.models.layers import Mlp, TransformerLayer, drop_features, drop_tokens, recomputed
from jax_itm.models.pooling import pool
from jax_itm.types import Array, Float, Inputs


def location(boxes: Float[Array, "b r 4"]) -> Float[Array, "b r 7"]:
    """UNITER's 7 numbers of a box: x1, y1, x2, y2, width, height, area; all in [0, 1]."""
    size = boxes[..., 2:] - boxes[..., :2]
    area = size[..., :1] * size[..., 1:]
    return jnp.concatenate([boxes, size, area], axis=-1)


class RegionEncoder(nn.Module):
    """Region features -> `Linear(f, d) + MLP(f, d/2, d)` -> pooling (VSE-infinity's image side).

    With `boxes` the location of each region is appended to its features: needed where texts speak of
    places, and not part of VSE-infinity.
    """

    dim: int
    pooling: str = "gpo"
    boxes: bool = False
    drop: float = 0.2
    hidden: int = 0  # of the MLP; 0 means dim // 2
    feature_dropout: float = 0.0
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, image: Inputs, train: bool = False) -> Encoded:
        """Takes `batch["image"]` with regions, boxes and mask."""
        x, mask = image["regions"].astype(self.dtype), image["mask"]
        if self.boxes:
            x = jnp.concatenate([x, location(image["boxes"]).astype(self.dtype)], axis=-1)
        if train:
            mask = drop_tokens(self, mask, self.drop)
            x = drop_features(self, x, self.feature_dropout)
        mlp = Mlp(self.hidden or self.dim // 2, self.dim, dtype=self.dtype, name="mlp")
        tokens = nn.Dense(self.dim, dtype=self.dtype, name="linear")(x) + mlp(x)
        tokens = tokens.astype(jnp.float32)
        return Encoded(l2_normalise(pool(self.pooling, tokens, mask)), tokens, mask)


class Vit(nn.Module):
    """A Vision Transformer (Dosovitskiy et al., 2021) from pixels, its patches projected to `dim`.

    Pre-norm layers, learnt positions, no class token: the patches take the place of regions.
    """

    dim: int
    pooling: str = "gpo"
    drop: float = 0.2
    patch: int = 16
    width: int = 192
    layers: int = 6
    heads: int = 3
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, image: Inputs, train: bool = False) -> Encoded:
        """Takes `batch["image"]` with uint8 pixels."""
        x = image["pixels"].astype(self.dtype) / 127.5 - 1
        window = (self.patch, self.patch)
        x = nn.Conv(self.width, window, window, "VALID", dtype=self.dtype, name="patches")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        normal = nn.initializers.normal(0.02)
        x = x + self.param("positions", normal, (1, x.shape[1], self.width)).astype(self.dtype)
        mask = jnp.ones(x.shape[:2], bool)
        if train:  # dropped patches are unseen by the others too, as in masked autoencoders
            mask = drop_tokens(self, mask, self.drop)
        for index in range(self.layers):
            layer = recomputed(TransformerLayer, self.remat)
            layer = layer(self.heads, 4 * self.width, dtype=self.dtype, name=f"layer_{index}")
            x = layer(x, mask, train)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        tokens = nn.Dense(self.dim, dtype=self.dtype, name="project")(x).astype(jnp.float32)
        return Encoded(l2_normalise(pool(self.pooling, tokens, mask)), tokens, mask)


def build(config, dim: int, dtype: str, remat: bool) -> nn.Module:
    """The encoder that `config.image` describes; with `remat` its layers are recomputed."""
    if config.name == "pretrained":
        tower = towers.tower("image", config.arch, remat=remat, dtype=jnp.dtype(dtype))
        return towers.on(tower, config, dim, dtype)
    shared = {"dim": dim, "pooling": config.pooling, "drop": config.drop, "dtype": jnp.dtype(dtype)}
    if config.name == "regions":
        head = {"hidden": config.hidden, "feature_dropout": config.feature_dropout}
        return RegionEncoder(boxes=config.boxes, **head, **shared)
    sizes = {"width": config.width, "layers": config.layers, "heads": config.heads}
    return Vit(patch=config.patch, remat=remat, **sizes, **shared)
