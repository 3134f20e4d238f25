"""The image encoder of region features that were computed beforehand."""

import flax.linen as nn
import jax.numpy as jnp

from jax_itm.arrays import Encoded, l2_normalise
from jax_itm.models.layers import ProjectionHead, drop_tokens
from jax_itm.models.pooling import pool
from jax_itm.types import Array, Float, Inputs


def box_location(boxes: Float[Array, "b r 4"]) -> Float[Array, "b r 7"]:
    """UNITER's 7 numbers of a box: x1, y1, x2, y2, width, height, area; all in [0, 1]."""
    size = boxes[..., 2:] - boxes[..., :2]
    area = size[..., :1] * size[..., 1:]
    return jnp.concatenate([boxes, size, area], axis=-1)


class RegionEncoder(nn.Module):
    """Region features -> `Linear(f, d) + MLP(f, d/2, d)` -> pooling -> a vector of length one.

    The image side of VSE-infinity (Chen et al., "Learning the Best Pooling Strategy for Visual Semantic
    Embedding", CVPR 2021). With `boxes` each region's location is appended to its features: needed where
    texts speak of places, and not part of VSE-infinity.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> image = {"regions": jnp.ones((2, 36, 64)), "mask": jnp.ones((2, 36), bool)}
        >>> encoder = RegionEncoder(dim=16)
        >>> encoder.apply(encoder.init(jax.random.key(0), image), image).embedding.shape
        (2, 16)

    Attributes:
        dim: of the embedding.
        pooling: "gpo", "hrem", "mean" or "max".
        boxes: whether to append the regions' locations.
        drop: fraction of the regions hidden in training.
        hidden: width of the MLP; 0 for dim // 2.
        feature_dropout: fraction of the features dropped in training, the same for all regions of an image.
        norm: "batch" for batch normalisation in the MLP over the true regions of the global batch, as in
            VSE-infinity and HREM; "none" for none.
        dtype: of the computation.
    """

    dim: int
    pooling: str = "gpo"
    boxes: bool = False
    drop: float = 0.2
    hidden: int = 0
    feature_dropout: float = 0.0
    norm: str = "none"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, image: Inputs, train: bool = False) -> Encoded:
        """Takes `batch["image"]` with regions and mask, and boxes if it reads them."""
        x = image["regions"].astype(self.dtype)
        mask = image["mask"]
        if self.boxes:
            x = jnp.concatenate([x, box_location(image["boxes"]).astype(self.dtype)], axis=-1)
        if train:
            mask = drop_tokens(self, mask, self.drop)
        head = ProjectionHead(
            self.dim,
            self.hidden or self.dim // 2,
            self.feature_dropout,
            norm=self.norm,
            dtype=self.dtype,
            name="projection",
        )
        tokens = head(x, mask, train)
        return Encoded(l2_normalise(pool(self.pooling, tokens, mask, train)), tokens, mask)
