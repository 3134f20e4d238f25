"""BERT, randomly initialised or as published, and the text encoders of CLIP and SigLIP."""

import flax.linen as nn
import jax.numpy as jnp

from jax_itm.models.layers import Tokens, TransformerLayer, drop_tokens, maybe_remat
from jax_itm.models.repeated import in_turn
from jax_itm.types import Array, Float, Inputs, Int


class TokenEmbeddings(nn.Module):
    """Word, position and type embeddings, added and normalised: `LN(word + position + type_0)`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> ids = jnp.ones((2, 5), jnp.int32)
        >>> embeddings = TokenEmbeddings(vocab=10, width=8, max_positions=5)
        >>> embeddings.apply(embeddings.init(jax.random.key(0), ids), ids).shape
        (2, 5, 8)

    Attributes:
        vocab: number of ids.
        width: of an embedding.
        max_positions: rows of the position table.
        type_count: rows of the type table, of which words have the first; 0 for no table.
        use_norm: whether the sum is normalised; CLIP's is not.
        norm_eps: of the LayerNorm.
        init_std: standard deviation of the initial tables.
        dtype: of the computation.
    """

    vocab: int
    width: int
    max_positions: int
    type_count: int = 2
    use_norm: bool = True
    norm_eps: float = 1e-12
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.dtype("float32")

    def setup(self) -> None:
        """The tables."""
        init = nn.initializers.normal(self.init_std)
        table = lambda rows: nn.Embed(rows, self.width, dtype=self.dtype, embedding_init=init)
        self.words = table(self.vocab)
        self.positions = table(self.max_positions)
        if self.type_count:
            self.types = table(self.type_count)
        if self.use_norm:
            self.norm = nn.LayerNorm(self.norm_eps, dtype=self.dtype)

    def __call__(self, ids: Int[Array, "b w"]) -> Float[Array, "b w width"]:
        """The embeddings of words."""
        return self.complete(self.words(ids))

    def complete(self, words: Float[Array, "b w width"]) -> Float[Array, "b w width"]:
        """Adds the first positions and type 0 to word vectors, and normalises."""
        x = words + self.positions(jnp.arange(words.shape[1]))
        if self.type_count:
            x = x + self.type_vector(0)
        return self.norm(x) if self.use_norm else x

    def type_vector(self, index: int) -> Float[Array, "width"]:
        """A row of the type table."""
        return self.types(jnp.asarray(index))


class Bert(nn.Module):
    """BERT (Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", NAACL 2019).

    Words, positions and the type of the first sentence, then post-norm layers; the pooler is left out.
    MiniLM and other students of BERT are this module, too.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> text = {"ids": jnp.ones((2, 5), jnp.int32), "mask": jnp.ones((2, 5), bool)}
        >>> bert = Bert(vocab=10, width=8, layers=1, heads=2, positions=5)
        >>> bert.apply(bert.init(jax.random.key(0), text), text).features.shape
        (2, 5, 8)

    Attributes:
        vocab: number of ids.
        width: of a token.
        layers: number of layers.
        heads: attention heads of a layer.
        positions: the largest number of words.
        mlp: width of a layer's MLP; 0 for four times `width`.
        types: rows of the type table; 0 for none.
        act: activation of the MLPs, one of `layers.ACTIVATIONS`.
        norm_eps: of the LayerNorms.
        dropout: of the embeddings and of what each part of a layer adds.
        drop: fraction of the words hidden in training, from the other words too.
        remat: whether the backward pass computes the layers again instead of keeping their activations.
        dtype: of the computation.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    positions: int
    mlp: int = 0
    types: int = 2
    act: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.1
    drop: float = 0.0
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, text: Inputs, train: bool = False) -> Tokens:
        """Takes `batch["text"]`; the features of padding mean nothing."""
        mask = drop_tokens(self, text["mask"], self.drop) if train else text["mask"]
        embeddings = TokenEmbeddings(
            self.vocab,
            self.width,
            self.positions,
            self.types,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            name="embeddings",
        )
        x = nn.Dropout(self.dropout, deterministic=not train)(embeddings(text["ids"]))
        layers = [
            maybe_remat(TransformerLayer, self.remat)(
                self.heads,
                self.mlp or 4 * self.width,
                dropout=self.dropout,
                post_norm=True,
                norm_eps=self.norm_eps,
                dtype=self.dtype,
                act=self.act,
                name=f"layer_{index}",
            )
            for index in range(self.layers)
        ]
        x, _ = in_turn(layers, x, mask, train)
        return Tokens(x, mask)


class ClipText(nn.Module):
    """CLIP's text encoder (Radford et al., "Learning Transferable Visual Models", ICML 2021), and SigLIP's.

    In CLIP's a word attends to no later one, and the summary of a text is its last true token. SigLIP's
    (Zhai et al., ICCV 2023) is trained without any mask: a word attends to all positions, padding is a token
    like others, and the summary is the last position. Tokens are those after the last LayerNorm.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> text = {"ids": jnp.ones((2, 5), jnp.int32), "mask": jnp.ones((2, 5), bool)}
        >>> clip = ClipText(vocab=10, width=8, layers=1, heads=2, positions=5)
        >>> clip.apply(clip.init(jax.random.key(0), text), text).features.shape
        (2, 5, 8)

    Attributes:
        vocab: number of ids.
        width: of a token.
        layers: number of layers.
        heads: attention heads of a layer.
        positions: the largest number of words.
        mlp: width of a layer's MLP; 0 for four times `width`.
        act: activation of the MLPs, one of `layers.ACTIVATIONS`.
        norm_eps: of the LayerNorms.
        causal: whether a word attends to no later one and to no padding; SigLIP's attends to everything.
        dropout: of what each part of a layer adds.
        remat: whether the backward pass computes the layers again instead of keeping their activations.
        dtype: of the computation.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    positions: int
    mlp: int = 0
    act: str = "quick_gelu"
    norm_eps: float = 1e-5
    causal: bool = True
    dropout: float = 0.0
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, text: Inputs, train: bool = False) -> Tokens:
        """Takes `batch["text"]`; the features of padding mean nothing where the encoder is causal."""
        mask = text["mask"] if self.causal else jnp.ones_like(text["mask"])
        embeddings = TokenEmbeddings(
            self.vocab,
            self.width,
            self.positions,
            type_count=0,
            use_norm=False,
            dtype=self.dtype,
            name="embeddings",
        )
        x = embeddings(text["ids"])
        layers = [
            maybe_remat(TransformerLayer, self.remat)(
                self.heads,
                self.mlp or 4 * self.width,
                dropout=self.dropout,
                norm_eps=self.norm_eps,
                dtype=self.dtype,
                act=self.act,
                causal=self.causal,
                name=f"layer_{index}",
            )
            for index in range(self.layers)
        ]
        x, _ = in_turn(layers, x, mask, train)
        return Tokens(nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm")(x), mask)
