"""Pretrained towers: encoders whose published weights people already have, and what is put on them.

A tower gives the tokens of its last layer; `Pretrained` projects and pools them. The description of a
tower (`config.image.arch`, `config.text.arch`) is read from its config.json once, when a run starts, and
kept with the run. Which published name is which parameter: `families.py`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.arrays import Encoded, l2_normalise
from jax_itm.errors import UserError
from jax_itm.models.layers import Mlp, TransformerLayer, drop_features, drop_tokens, recomputed
from jax_itm.models.pooling import pool
from jax_itm.models.swin import Swin
from jax_itm.models.vit import Vision
from jax_itm.types import Array, Config, Float, Inputs

SUMMARIES = ("cls", "clip")  # poolings that take one token


class Bert(nn.Module):
    """BERT (Devlin et al., 2019) as published: words, positions and the first sentence's type.

    MiniLM and other students of BERT are this, too. Its pooler is left out.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    mlp: int
    act: str
    norm_eps: float
    positions: int
    types: int
    dropout: float = 0.1
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, text: Inputs, train: bool = False) -> Float[Array, "b w width"]:
        """Takes `batch["text"]`; the tokens of padding mean nothing."""
        normal, ids = nn.initializers.normal(0.02), text["ids"]
        table = lambda rows, name: nn.Embed(
            rows, self.width, dtype=self.dtype, embedding_init=normal, name=name
        )
        x = table(self.vocab, "words")(ids) + table(self.positions, "positions")(jnp.arange(ids.shape[1]))
        x = x + table(self.types, "types")(jnp.zeros_like(ids))
        x = nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for index in range(self.layers):
            layer = recomputed(TransformerLayer, self.remat)(
                self.heads,
                self.mlp,
                dropout=self.dropout,
                post_norm=True,
                norm_eps=self.norm_eps,
                dtype=self.dtype,
                act=self.act,
                name=f"layer_{index}",
            )
            x = layer(x, text["mask"], train)
        return x


class ClipText(nn.Module):
    """CLIP's words (Radford et al., 2021): a transformer in which a word sees none after it.

    Tokens are those after the last LayerNorm; CLIP's summary is the end's, the last true one.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    mlp: int
    act: str
    norm_eps: float
    positions: int
    dropout: float = 0.0
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, text: Inputs, train: bool = False) -> Float[Array, "b w width"]:
        """Takes `batch["text"]`; the tokens of padding mean nothing."""
        normal, ids = nn.initializers.normal(0.02), text["ids"]
        table = lambda rows, name: nn.Embed(
            rows, self.width, dtype=self.dtype, embedding_init=normal, name=name
        )
        x = table(self.vocab, "words")(ids) + table(self.positions, "positions")(jnp.arange(ids.shape[1]))
        for index in range(self.layers):
            layer = recomputed(TransformerLayer, self.remat)(
                self.heads,
                self.mlp,
                dropout=self.dropout,
                norm_eps=self.norm_eps,
                dtype=self.dtype,
                act=self.act,
                causal=True,
                name=f"layer_{index}",
            )
            x = layer(x, text["mask"], train)
        return nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm")(x)


class Pretrained(nn.Module):
    """A tower's tokens -> `Linear(width, d)`, with `hidden` + `MLP(width, hidden, d)` -> pooling.

    The tower sees all tokens; `drop` hides some from pooling only, so that a frozen tower's tokens, which
    never change, may be made once and given as `features` (b, n, width) instead. `cls` takes the tower's own
    place of a summary: its first token, or the last true one (`summary_last`, CLIP's words); `clip` does so
    with CLIP's own projection, so that an untrained run has CLIP's own embeddings.
    """

    tower: nn.Module
    dim: int
    pooling: str = "gpo"
    drop: float = 0.2
    frozen: bool = False  # no gradient, no dropout; the optimiser leaves its parameters alone
    summary_last: bool = False
    hidden: int = 0
    feature_dropout: float = 0.0
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, inputs: Inputs, train: bool = False) -> Encoded:
        """Takes one side of a batch, with its mask where not all tokens are true."""
        if "features" in inputs:
            x = inputs["features"].astype(self.dtype)
        else:
            x = self.tower(inputs, train and not self.frozen)
        if self.frozen:
            x = jax.lax.stop_gradient(x)
        mask = inputs.get("mask", jnp.ones(x.shape[:2], bool))
        place = jnp.sum(mask, axis=1) - 1 if self.summary_last else jnp.zeros(len(x), jnp.int32)
        own = self.pooling == "clip"
        project = nn.Dense(self.dim, use_bias=not own, dtype=self.dtype, name="project")
        if train:
            mask = drop_tokens(self, mask, self.drop)
            x = drop_features(self, x, self.feature_dropout)
        tokens = project(x)
        if self.hidden:
            tokens += Mlp(self.hidden, self.dim, dtype=self.dtype, name="mlp")(x)
        tokens = tokens.astype(jnp.float32)
        if self.pooling in SUMMARIES:
            pooled = jnp.take_along_axis(tokens, place[:, None, None], axis=1)[:, 0]
        else:
            pooled = pool(self.pooling, tokens, mask)
        return Encoded(l2_normalise(pooled), tokens, mask)


TOWERS = {
    "text": {"bert": Bert, "clip": ClipText, "clip_text_model": ClipText},
    "image": {
        **dict.fromkeys(("vit", "dinov2", "dinov2_with_registers", "clip", "clip_vision_model"), Vision),
        "swin": Swin,
    },
}


def tower(side: str, arch: Config, **options) -> nn.Module:
    """The tower that `config.image.arch` or `config.text.arch` describes.

    Raises:
        UserError: nothing is described: no run was started with this config.
    """
    if not arch:
        raise UserError(f"config.{side}.arch: empty; a run's start fills it from the tower's config.json")
    sizes = {name: value for name, value in arch.items() if name not in ("kind", "frame")}
    return TOWERS[side][arch["kind"]](**sizes, **options)


def on(tower: nn.Module, config, dim: int, dtype: str) -> Pretrained:
    """The encoder on a tower that `config.image` or `config.text` describes."""
    return Pretrained(
        tower,
        dim,
        pooling=config.pooling,
        drop=config.drop,
        frozen=config.frozen,
        summary_last=isinstance(tower, ClipText),
        hidden=config.hidden,
        feature_dropout=config.feature_dropout,
        dtype=jnp.dtype(dtype),
    )
