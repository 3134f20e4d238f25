"""Text encoders without attention: a BiGRU, and an order-blind bag of words."""

import flax.linen as nn
import jax.numpy as jnp

from jax_itm.arrays import Encoded, l2_normalise
from jax_itm.models.layers import drop_tokens
from jax_itm.models.pooling import pool
from jax_itm.models.recurrent import BiGru
from jax_itm.types import Inputs


def word_table(vocab: int, size: int, dtype: jnp.dtype) -> nn.Embed:
    """A word table with the field's initial values, uniform in [-0.1, 0.1] (VSE++)."""
    init = lambda key, shape, dtype: nn.initializers.uniform(0.2)(key, shape, dtype) - 0.1
    return nn.Embed(vocab, size, dtype=dtype, embedding_init=init, name="words")


class BiGruText(nn.Module):
    """Word vectors -> BiGRU, the two directions averaged -> pooling -> a vector of length one.

    The text side of VSE++ (Faghri et al., BMVC 2018) and VSE-infinity (Chen et al., CVPR 2021).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> text = {"ids": jnp.ones((2, 5), jnp.int32), "mask": jnp.ones((2, 5), bool)}
        >>> encoder = BiGruText(dim=16, vocab=10, word_dim=8)
        >>> encoder.apply(encoder.init(jax.random.key(0), text), text).embedding.shape
        (2, 16)

    Attributes:
        dim: of the embedding.
        vocab: number of ids.
        pooling: "gpo", "hrem", "mean" or "max".
        drop: fraction of the words hidden in training.
        word_dim: of a word vector.
        dtype: of the computation.
    """

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
        x = word_table(self.vocab, self.word_dim, self.dtype)(text["ids"])
        tokens = BiGru(self.dim, dtype=self.dtype, name="gru")(x, mask).astype(jnp.float32)
        return Encoded(l2_normalise(pool(self.pooling, tokens, mask, train)), tokens, mask)


class BagOfWords(nn.Module):
    """Word vectors and their pooling, nothing else: what a model reaches that is blind to word order.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> text = {"ids": jnp.ones((2, 5), jnp.int32), "mask": jnp.ones((2, 5), bool)}
        >>> encoder = BagOfWords(dim=16, vocab=10)
        >>> encoder.apply(encoder.init(jax.random.key(0), text), text).embedding.shape
        (2, 16)

    Attributes:
        dim: of the embedding.
        vocab: number of ids.
        pooling: "gpo", "hrem", "mean" or "max".
        drop: fraction of the words hidden in training.
        dtype: of the computation.
    """

    dim: int
    vocab: int
    pooling: str = "mean"
    drop: float = 0.2
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, text: Inputs, train: bool = False) -> Encoded:
        """Takes `batch["text"]`."""
        mask = drop_tokens(self, text["mask"], self.drop) if train else text["mask"]
        tokens = word_table(self.vocab, self.dim, self.dtype)(text["ids"]).astype(jnp.float32)
        return Encoded(l2_normalise(pool(self.pooling, tokens, mask, train)), tokens, mask)
