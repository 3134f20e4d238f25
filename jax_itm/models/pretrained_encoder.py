"""An encoder on a transformer backbone, pretrained or randomly initialised, and the list of backbones.

A backbone returns the tokens of its last layer; `BackboneEncoder` projects and pools them. The architecture
of a pretrained backbone is read from its config.json once, when a run starts, and kept with the run's facts
(`Facts.image_architecture`, `Facts.text_architecture`, jax_itm/config/facts.py). Which published weight is
which parameter: `jax_itm/pretrained`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.arrays import Encoded, l2_normalise
from jax_itm.models.attention_pooling import AttentionPooling
from jax_itm.models.bert import Bert, ClipText
from jax_itm.models.layers import ProjectionHead, Tokens, drop_tokens
from jax_itm.models.pooling import pool
from jax_itm.models.swin import Swin
from jax_itm.models.vit import Vit
from jax_itm.types import Architecture, Array, Float, Inputs

SUMMARIES = ("cls", "clip", "siglip")  # poolings that take one token
OTHER_FIELDS = ("kind", "image_transform")  # of an architecture, in addition to the fields of the module

BACKBONES = {
    "text": {
        "bert": Bert,
        "clip": ClipText,
        "clip_text_model": ClipText,
        "siglip": ClipText,
        "siglip_text_model": ClipText,
    },
    "image": {
        "vit": Vit,
        "dinov2": Vit,
        "dinov2_with_registers": Vit,
        "clip": Vit,
        "clip_vision_model": Vit,
        "siglip": Vit,
        "siglip_vision_model": Vit,
        "swin": Swin,
    },
}


def backbone(side: str, arch: Architecture, **options: Any) -> nn.Module:
    """The module of an architecture.

    Args:
        side: "image" or "text".
        arch: of the run's facts: its `kind`, one of `BACKBONES`, and the fields of that module.
        options: more fields of the module, such as dtype.
    """
    fields = {name: value for name, value in arch.items() if name not in OTHER_FIELDS}
    return BACKBONES[side][arch["kind"]](**fields, **options)


class BackboneEncoder(nn.Module):
    """A backbone's tokens -> `Linear(width, d)`, with `hidden` + `MLP(width, hidden, d)` -> pooling.

    The backbone sees all tokens; `drop` hides some from pooling alone, so that the tokens of a frozen
    backbone, which never change, can be computed once and passed as `features` (b, n, width) instead. The
    pooling `cls` takes the backbone's own summary token: the first, or the last true one (`summary_last`, as
    CLIP's text). `clip` does so with CLIP's own projection: an untrained run has CLIP's own embeddings. So
    does `siglip` with SigLIP's projection of texts; its images have none, but an `attention_pool`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax_itm.models import Vit
        >>> image = {"pixels": jnp.zeros((2, 32, 32, 3), jnp.uint8)}
        >>> vit = Vit(layers=1, heads=2, width=8, patch=16, image_size=32)
        >>> encoder = BackboneEncoder(vit, dim=16, pooling="mean")
        >>> encoder.apply(encoder.init(jax.random.key(0), image), image).embedding.shape
        (2, 16)

    Attributes:
        backbone: a module that takes one side of a batch and `train`, and returns `Tokens`.
        dim: of the embedding.
        pooling: "gpo", "hrem", "mean", "max", "cls", "clip" or "siglip".
        drop: fraction of the tokens hidden from pooling in training.
        frozen: whether the backbone has no gradient and no dropout.
        summary_last: whether the summary token is the last true one.
        pads_with_tokens: whether padding counts as tokens (SigLIP's text encoder).
        hidden: width of the projection's MLP; 0 for none.
        feature_dropout: fraction of the features dropped in training, the same for all tokens of an item.
        norm: of the projection's MLP, "none" or "batch".
        attention_pool: pools the backbone's own tokens, without a projection; `dim` is their width.
        dtype: of the projection's computation.
    """

    backbone: nn.Module
    dim: int
    pooling: str = "gpo"
    drop: float = 0.2
    frozen: bool = False
    summary_last: bool = False
    pads_with_tokens: bool = False
    hidden: int = 0
    feature_dropout: float = 0.0
    norm: str = "none"
    attention_pool: AttentionPooling | None = None
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, inputs: Inputs, train: bool = False) -> Encoded:
        """Takes one side of a batch, with its mask where not all tokens are true."""
        x, mask = self._backbone_tokens(inputs, train)
        summary = jnp.sum(mask, axis=1) - 1 if self.summary_last else jnp.zeros(x.shape[0], jnp.int32)
        if train:
            mask = drop_tokens(self, mask, self.drop)
        if self.attention_pool is not None:
            embedding = l2_normalise(self.attention_pool(x, mask))
            return Encoded(embedding, x.astype(jnp.float32), mask)
        head = ProjectionHead(
            self.dim,
            self.hidden,
            self.feature_dropout,
            norm=self.norm,
            use_bias=self.pooling != "clip",
            dtype=self.dtype,
            name="projection",
        )
        tokens = head(x, mask, train)
        if self.pooling in SUMMARIES:
            pooled: Float[Array, "b d"] = jnp.take_along_axis(tokens, summary[:, None, None], axis=1)[:, 0]
        else:
            pooled = pool(self.pooling, tokens, mask, train)
        return Encoded(l2_normalise(pooled), tokens, mask)

    def _backbone_tokens(self, inputs: Inputs, train: bool) -> Tokens:
        if "features" in inputs:
            x = inputs["features"].astype(self.dtype)
            every = jnp.ones(x.shape[:2], bool)
            tokens = Tokens(x, every if self.pads_with_tokens else inputs.get("mask", every))
        else:
            tokens = self.backbone(inputs, train and not self.frozen)
        if self.frozen:
            tokens = tokens._replace(features=jax.lax.stop_gradient(tokens.features))
        return tokens
