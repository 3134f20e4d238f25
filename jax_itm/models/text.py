"""Text encoders: BiGRU, a BERT-style transformer, a pretrained tower, and an order-blind bag of words."""

import flax.linen as nn
import jax.numpy as jnp

from jax_itm.arrays import Encoded, l2_normalise
from jax_itm.models import towers
from jax_itm.models.layers import BiGru, TransformerLayer, drop_tokens, recomputed
from jax_itm.models.pooling import pool
from jax_itm.types import Inputs


def word_vectors(vocab: int, size: int, dtype: jnp.dtype) -> nn.Embed:
    """A word table with the field's start values, uniform in [-0.1, 0.1] (VSE++)."""
    start = lambda key, shape, dtype: nn.initializers.uniform(0.2)(key, shape, dtype) - 0.1
    return nn.Embed(vocab, size, dtype=dtype, embedding_init=start, name="words")


class BiGruText(nn.Module):
    """Words -> BiGRU, the two directions averaged -> pooling (VSE++, VSE-infinity)."""

    dim: int
    vocab: int
    pooling: str = "gpo"
    drop: float = 0.2
    word_dim: int = 300
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, text: Inputs, train: bool = False) -> Encoded:
        """Takes `batch["text"]`. Dropped words are as if they were not in the caption."""
        mask = drop_tokens(self, text["mask"], self.drop) if train else text["mask"]
        x = word_vectors(self.vocab, self.word_dim, self.dtype)(text["ids"])
        tokens = BiGru(self.dim, dtype=self.dtype, name="gru")(x, mask).astype(jnp.float32)
        return Encoded(l2_normalise(pool(self.pooling, tokens, mask)), tokens, mask)


class BertText(nn.Module):
    """A BERT encoder (Devlin et al., 2019): learnt positions, post-norm layers, then a projection."""

    dim: int
    vocab: int
    pooling: str = "gpo"
    drop: float = 0.2
    width: int = 256
    layers: int = 4
    heads: int = 4
    max_words: int = 64
    dropout: float = 0.1
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, text: Inputs, train: bool = False) -> Encoded:
        """Takes `batch["text"]`. Dropped words are hidden from attention and pooling."""
        mask = drop_tokens(self, text["mask"], self.drop) if train else text["mask"]
        normal = nn.initializers.normal(0.02)
        words = nn.Embed(self.vocab, self.width, dtype=self.dtype, embedding_init=normal, name="words")
        positions = self.param("positions", normal, (self.max_words, self.width))
        x = words(text["ids"]) + positions[: text["ids"].shape[1]].astype(self.dtype)
        x = nn.LayerNorm(1e-12, dtype=self.dtype, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for index in range(self.layers):
            layer = recomputed(TransformerLayer, self.remat)(
                self.heads,
                4 * self.width,
                dropout=self.dropout,
                post_norm=True,
                norm_eps=1e-12,
                dtype=self.dtype,
                name=f"layer_{index}",
            )
            x = layer(x, mask, train)
        tokens = nn.Dense(self.dim, dtype=self.dtype, name="project")(x).astype(jnp.float32)
        return Encoded(l2_normalise(pool(self.pooling, tokens, mask)), tokens, mask)


class BagOfWords(nn.Module):
    """Word vectors and their pooling, nothing else: what a model reaches that is blind to order."""

    dim: int
    vocab: int
    pooling: str = "mean"
    drop: float = 0.2
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, text: Inputs, train: bool = False) -> Encoded:
        """Takes `batch["text"]`."""
        mask = drop_tokens(self, text["mask"], self.drop) if train else text["mask"]
        tokens = word_vectors(self.vocab, self.dim, self.dtype)(text["ids"]).astype(jnp.float32)
        return Encoded(l2_normalise(pool(self.pooling, tokens, mask)), tokens, mask)


def build(config, dim: int, dtype: str, vocab: int, max_words: int, remat: bool) -> nn.Module:
    """The encoder that `config.text` describes; with `remat` its layers are recomputed."""
    if config.name == "pretrained":
        tower = towers.tower("text", config.arch, dropout=config.dropout, remat=remat, dtype=jnp.dtype(dtype))
        return towers.on(tower, config, dim, dtype)
    shared = {
        "dim": dim,
        "vocab": vocab,
        "pooling": config.pooling,
        "drop": config.drop,
        "dtype": jnp.dtype(dtype),
    }
    if config.name == "bigru":
        return BiGruText(word_dim=config.word_dim, **shared)
    if config.name == "bow":
        return BagOfWords(**shared)
    return BertText(
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        max_words=max_words,
        dropout=config.dropout,
        remat=remat,
        **shared,
    )
