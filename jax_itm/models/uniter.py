"""UNITER, a single-stream matcher: one BERT over the words and the regions of a pair."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.arrays import AttentionMaps
from jax_itm.models.bert import TokenEmbeddings
from jax_itm.models.image import box_location
from jax_itm.models.layers import Dense, TransformerLayer, gelu, maybe_remat
from jax_itm.models.repeated import in_turn
from jax_itm.platforms import FULL
from jax_itm.types import Array, Bool, Float, Inputs, Int

EPS = 1e-12  # of every LayerNorm
MEAN_LOCATION = (1 / 3, 1 / 3, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 9)  # of a random box
IMAGE_TYPE = 1  # row of the type table; words have row 0


class Embedded(NamedTuple):
    """One side's items before the layers.

    Attributes:
        x: embedded words or regions.
        mask: all true positions; of words with [CLS] and [SEP].
        pooled: a dual encoder's embedding of the side, of a matcher whose score it is part of.
    """

    x: Float[Array, "b n h"]
    mask: Bool[Array, "b n"]
    pooled: Float[Array, "b d"] | None = None


class Matched(NamedTuple):
    """What the model says of pairs.

    Attributes:
        score: the logit, float32 or float64: higher is a better match.
        last: the input of the last layer, words first.
        x: the output of the last layer.
    """

    score: Float[Array, "b"]
    last: Float[Array, "b n h"]
    x: Float[Array, "b n h"]


def attention_maps(
    query: Float[Array, "b n a d"],
    key: Float[Array, "b n a d"],
    words: Bool[Array, "b w"],
    regions: Bool[Array, "b r"],
) -> AttentionMaps:
    """The four attention maps of IAIS, from the language side (docs/methods/iais.md).

        A_XY = mean over heads of softmax_over_Y(Q_X K_Y^T / sqrt(d_head))

    Four softmaxes, each over its own keys alone: not a layer's joint attention, and without dropout. Rows of
    padding hold numbers that mean nothing.

    Args:
        query: float32 queries of the words and then the regions, of each of a heads.
        key: their keys.
        words: which words are true.
        regions: which regions are true.
    """
    count = words.shape[1]
    size = query.shape[-1]
    language = (slice(None, count), words)
    vision = (slice(count, None), regions)

    def attention(source: tuple[slice, Array], target: tuple[slice, Array]) -> Float[Array, "b x y"]:
        rows, _ = source
        columns, mask = target
        scores = jnp.einsum("bqad,bkad->baqk", query[:, rows], key[:, columns], precision=FULL) / math.sqrt(
            size
        )
        scores = jnp.where(mask[:, None, None, :], scores, -jnp.inf)
        scores = jnp.where(jnp.any(mask, axis=1)[:, None, None, None], scores, 0)  # nothing to attend to
        return jnp.mean(jax.nn.softmax(scores, axis=3), axis=1)

    return AttentionMaps(
        attention(language, language),
        attention(vision, vision),
        attention(language, vision),
        attention(vision, language),
        words,
        regions,
    )


class WordHead(nn.Module):
    """BERT's masked language model: logits of words by the word table itself.

    It also holds the vector that replaces a masked word: the vocabularies fitted here have no [MASK].

    Attributes:
        vocab: number of ids.
        hidden: width of a word vector.
        init_std: standard deviation of the initial values.
        dtype: of the computation.
    """

    vocab: int
    hidden: int
    init_std: float
    dtype: jnp.dtype

    def setup(self) -> None:
        """Its parts."""
        init = nn.initializers.normal(self.init_std)
        self.masked = self.param("masked", init, (self.hidden,))
        self.dense = Dense(self.hidden, dtype=self.dtype, kernel_init=init)
        self.norm = nn.LayerNorm(EPS, dtype=self.dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (self.vocab,))

    def __call__(self, x: Float[Array, "b w h"], table: Float[Array, "v h"]) -> Float[Array, "b w v"]:
        """Logits of every position, float32 at least."""
        inner = self.norm(gelu(self.dense(x)))
        logits = inner @ table.T.astype(self.dtype)
        return logits.astype(jnp.promote_types(self.dtype, jnp.float32)) + self.bias


class Uniter(nn.Module):
    """UNITER (Chen et al., "UNITER: UNiversal Image-TExt Representation Learning", ECCV 2020).

    The matcher as IAIS uses it. The defaults are its `base`; `large` has hidden 1024, 24 layers and 16 heads.
    Words and regions are embedded apart, so that an item is embedded once for all pairs that it is in. Its
    embeddings, layers and pooler are those of a BERT, by the same parameter names.

    UNITER's one linear map of a region expects the features of a detector, which name what is seen.
    `region_mlp` puts two layers of that width before it, for features that do not, such as pixels.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> text = {"ids": jnp.ones((2, 5), jnp.int32), "mask": jnp.ones((2, 5), bool)}
        >>> image = {"regions": jnp.ones((2, 3, 6)), "boxes": jnp.zeros((2, 3, 4))}
        >>> batch = {"text": text, "image": image | {"mask": jnp.ones((2, 3), bool)}}
        >>> uniter = Uniter(vocab=10, hidden=8, layers=1, heads=2)
        >>> uniter.apply(uniter.init(jax.random.key(0), batch), batch).shape
        (2,)

    Attributes:
        vocab: number of ids.
        hidden: width of a layer.
        mlp: width of a layer's MLP; 0 for four times `hidden`.
        layers: number of layers.
        heads: attention heads of a layer.
        positions: the largest number of words.
        dropout: of embeddings, attention weights and what each part of a layer adds.
        init_std: standard deviation of the initial values; BERT's 0.02 is for width 768, and narrower models
            want more.
        region_mlp: width of the MLP before the region projection; 0 for none, as UNITER.
        center_boxes: whether the mean location is subtracted from the boxes', which from random values hides
            where each is. UNITER does not.
        mlm: whether there are parameters of the head for masked words.
        remat: whether the backward pass computes the layers again instead of keeping their activations.
        dtype: of the computation.
    """

    vocab: int
    hidden: int = 768
    mlp: int = 0
    layers: int = 12
    heads: int = 12
    positions: int = 512
    dropout: float = 0.1
    init_std: float = 0.02
    region_mlp: int = 0
    center_boxes: bool = False
    mlm: bool = False
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    def setup(self) -> None:
        """Its parts."""
        init = nn.initializers.normal(self.init_std)
        norm = lambda: nn.LayerNorm(EPS, dtype=self.dtype)
        dense = lambda size: Dense(size, dtype=self.dtype, kernel_init=init)
        self.embeddings = TokenEmbeddings(
            self.vocab,
            self.hidden,
            self.positions,
            norm_eps=EPS,
            init_std=self.init_std,
            dtype=self.dtype,
        )
        mlp_layers = 2 if self.region_mlp else 0
        self.region_mlp_layer = [Dense(self.region_mlp, dtype=self.dtype) for _ in range(mlp_layers)]
        self.img_linear = dense(self.hidden)
        self.img_layer_norm = norm()
        self.pos_linear = dense(self.hidden)
        self.pos_layer_norm = norm()
        self.img_norm = norm()
        self.layer = [self._transformer_layer() for _ in range(self.layers)]
        self.pooler = dense(self.hidden)
        self.rank_output = Dense(1, kernel_init=init)  # in the precision of its input
        self.word_head = WordHead(self.vocab, self.hidden, self.init_std, self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def _transformer_layer(self) -> TransformerLayer:
        return maybe_remat(TransformerLayer, self.remat)(
            self.heads,
            self.mlp or 4 * self.hidden,
            dropout=self.dropout,
            attention_dropout=self.dropout,
            post_norm=True,
            norm_eps=EPS,
            dtype=self.dtype,
            act="gelu",
            kernel_init=nn.initializers.normal(self.init_std),
        )

    def embed_text(self, text: Inputs, train: bool = False) -> Embedded:
        """`LN(word + position + type_0)` of [CLS] words [SEP]; words at `hidden` are masked.

        `train` changes nothing: the dropout of embeddings is in `match`.
        """
        ids: Int[Array, "b w"] = text["ids"]
        words = self.embeddings.words(ids)
        if "hidden" in text:
            words = jnp.where(text["hidden"][..., None], self.word_head.masked.astype(self.dtype), words)
        return Embedded(self.embeddings.complete(words), text["mask"])

    def embed_image(self, image: Inputs, train: bool = False) -> Embedded:
        """`LN(LN(W_f f + b) + LN(W_p p + b) + type_1)`; p is the 7-d location, there is no position id."""
        features = image["regions"].astype(self.dtype)
        location = box_location(image["boxes"])
        if self.center_boxes:
            location = location - jnp.asarray(MEAN_LOCATION)
        for layer in self.region_mlp_layer:
            features = nn.gelu(layer(features))
        x = self.img_layer_norm(self.img_linear(features))
        x = x + self.pos_layer_norm(self.pos_linear(location.astype(self.dtype)))
        return Embedded(self.img_norm(x + self.embeddings.type_vector(IMAGE_TYPE)), image["mask"])

    def match(self, text: Embedded, image: Embedded, train: bool = False) -> Matched:
        """The score of each pair (text k with image k), and what the maps are made of.

        The embeddings' dropout is here, so that it differs from pair to pair though they are shared.
        """
        x = self.drop(jnp.concatenate([text.x, image.x], axis=1), deterministic=not train)
        mask = jnp.concatenate([text.mask, image.mask], axis=1)
        x, last = in_turn(self.layer, x, mask, train)
        # Scores are float32 at least.
        pooled = jnp.tanh(self.pooler(x[:, 0])).astype(jnp.promote_types(self.dtype, jnp.float32))
        return Matched(self.rank_output(pooled)[:, 0], last, x)

    def maps(
        self, last: Float[Array, "b n h"], text: Bool[Array, "b w"], image: Bool[Array, "b r"]
    ) -> AttentionMaps:
        """The attention maps of the last layer, from its input; [CLS] and [SEP] are no words."""
        count = jnp.sum(text, axis=1, keepdims=True)
        index = jnp.arange(text.shape[1])[None]
        query, key = self.layer[-1].queries_and_keys(last)
        return attention_maps(query, key, (index > 0) & (index < count - 1), image)

    def words(self, text: Inputs, image: Embedded, train: bool = False) -> Float[Array, "b w v"]:
        """The logits of each pair's words from its words, some of them hidden, and its regions."""
        matched = self.match(self.embed_text(text), image, train)
        return self.word_head(matched.x[:, : text["ids"].shape[1]], self.embeddings.words.embedding)

    def __call__(self, batch: Inputs) -> Float[Array, "b"]:
        """The scores of matched rows; makes every parameter."""
        text = batch["text"]
        image = self.embed_image(batch["image"])
        if self.mlm:
            self.words(text, image)
        return self.match(self.embed_text(text), image).score
