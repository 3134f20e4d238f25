"""UNITER, a single-stream matcher: one BERT over the words and the regions of a pair.

Chen et al., "UNITER: UNiversal Image-TExt Representation Learning", ECCV 2020, as IAIS uses it. Words
and regions are embedded apart, so that an item is embedded once for all pairs that it is in.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.arrays import NEG_INF, AttentionMaps
from jax_itm.models.image import location
from jax_itm.models.layers import recomputed
from jax_itm.types import Array, Bool, Float, Inputs, Int, NamedTuple

EPS = 1e-12  # of every LayerNorm
MEAN_PLACE = (1 / 3, 1 / 3, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 9)  # the location of a random box


class Embedded(NamedTuple):
    """One side's items before the encoder."""

    x: Float[Array, "b n h"]
    mask: Bool[Array, "b n"]  # all true positions; of words with [CLS] and [SEP]


class Matched(NamedTuple):
    """What the encoder says of pairs."""

    score: Float[Array, "b"]  # the logit; float32
    last: Float[Array, "b n h"]  # the input of the last layer, words first
    x: Float[Array, "b n h"]  # its output


class BertLayer(nn.Module):
    """A post-norm BERT layer with exact GELU, whose attention maps can be asked for."""

    heads: int
    hidden: int
    dropout: float
    spread: float
    dtype: jnp.dtype

    def setup(self):
        """Its parts; `maps` uses two of them."""
        self.size = self.hidden // self.heads
        normal = nn.initializers.normal(self.spread)
        dense = lambda size: nn.Dense(size, dtype=self.dtype, kernel_init=normal)
        norm = lambda: nn.LayerNorm(EPS, dtype=self.dtype)
        self.query, self.key, self.value = (dense(self.hidden) for _ in range(3))
        self.output, self.output_norm = dense(self.hidden), norm()
        self.mlp_in, self.mlp_out, self.mlp_norm = dense(4 * self.hidden), dense(self.hidden), norm()
        self.drop = nn.Dropout(self.dropout)

    def _heads(self, x: Float[Array, "b n h"]) -> Float[Array, "b n heads size"]:
        return x.reshape(*x.shape[:2], self.heads, self.size)

    def __call__(
        self, x: Float[Array, "b n h"], mask: Bool[Array, "b n"], train: bool
    ) -> Float[Array, "b n h"]:
        """Joint self-attention over the true positions, then the MLP."""
        query, key, value = (self._heads(f(x)) for f in (self.query, self.key, self.value))
        scores = jnp.einsum("bqad,bkad->baqk", query, key).astype(jnp.float32) / math.sqrt(self.size)
        weights = jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, NEG_INF), axis=3)
        weights = self.drop(weights.astype(self.dtype), deterministic=not train)
        seen = jnp.einsum("baqk,bkad->bqad", weights, value).reshape(x.shape)
        x = self.output_norm(x + self.drop(self.output(seen), deterministic=not train))
        inner = nn.gelu(self.mlp_in(x), approximate=False)
        return self.mlp_norm(x + self.drop(self.mlp_out(inner), deterministic=not train))

    def maps(
        self, x: Float[Array, "b n h"], words: Bool[Array, "b w"], regions: Bool[Array, "b r"]
    ) -> AttentionMaps:
        """The four attention maps of spec section 2, float32, for inputs of this layer, words first.

            A_XY = mean over heads of softmax_over_Y(Q_X K_Y^T / sqrt(d_head))

        Four softmaxes, each over its own keys alone: not the joint attention of `__call__`, and without
        dropout. Padded rows hold numbers that mean nothing.
        """
        x = x.astype(jnp.float32)
        whole = lambda layer: x @ layer.variables["params"]["kernel"] + layer.variables["params"]["bias"]
        query, key = self._heads(whole(self.query)), self._heads(whole(self.key))
        count = words.shape[1]
        sides = (slice(None, count), words), (slice(count, None), regions)

        def attention(of, to):
            (here, _), (there, mask) = sides[of], sides[to]
            scores = jnp.einsum("bqad,bkad->baqk", query[:, here], key[:, there]) / math.sqrt(self.size)
            scores = jnp.where(mask[:, None, None, :], scores, -jnp.inf)
            scores = jnp.where(jnp.any(mask, axis=1)[:, None, None, None], scores, 0)  # nothing to see
            return jnp.mean(jax.nn.softmax(scores, axis=3), axis=1)

        return AttentionMaps(
            attention(0, 0), attention(1, 1), attention(0, 1), attention(1, 0), words, regions
        )


class WordHead(nn.Module):
    """BERT's masked language model: logits of words by the word table itself.

    It also holds what stands for a masked word: the vocabularies fitted here have no [MASK].
    """

    vocab: int
    hidden: int
    spread: float
    dtype: jnp.dtype

    def setup(self):
        """Its parts."""
        normal = nn.initializers.normal(self.spread)
        self.masked = self.param("masked", normal, (self.hidden,))
        self.dense = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=normal)
        self.norm = nn.LayerNorm(EPS, dtype=self.dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (self.vocab,))

    def __call__(self, x: Float[Array, "b w h"], table: Float[Array, "v h"]) -> Float[Array, "b w v"]:
        """Float32 logits of every position."""
        inner = self.norm(nn.gelu(self.dense(x), approximate=False))
        return (inner @ table.T.astype(self.dtype)).astype(jnp.float32) + self.bias


class Uniter(nn.Module):
    """The matcher. `base` is hidden 768, 12 layers, 12 heads; `large` 1024, 24 and 16.

    UNITER's one linear map of a region expects the features of a detector, which name what is seen.
    `region_mlp` sets two layers of that width before it, for features that do not, such as pixels; the
    `spread` of BERT's start values, 0.02, is for width 768, and narrower models want more. `centred` takes
    the mean place off the boxes' locations, which from random values hides where each is. None is UNITER's.
    """

    vocab: int
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    positions: int = 512
    dropout: float = 0.1
    spread: float = 0.02
    region_mlp: int = 0
    centred: bool = False
    mlm: bool = False  # make the parameters of the head for masked words
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    def setup(self):
        """Its parts, named as in the published weights."""
        normal = nn.initializers.normal(self.spread)
        table = lambda size: nn.Embed(size, self.hidden, dtype=self.dtype, embedding_init=normal)
        norm = lambda: nn.LayerNorm(EPS, dtype=self.dtype)
        dense = lambda size: nn.Dense(size, dtype=self.dtype, kernel_init=normal)
        wide = lambda: nn.Dense(self.region_mlp, dtype=self.dtype)
        self.word, self.position, self.token_type = table(self.vocab), table(self.positions), table(2)
        self.word_norm = norm()
        self.region_mlp_layer = [wide(), wide()] if self.region_mlp else []
        self.img_linear, self.img_layer_norm = dense(self.hidden), norm()
        self.pos_linear, self.pos_layer_norm = dense(self.hidden), norm()
        self.img_norm = norm()
        self.layer = [
            recomputed(BertLayer, self.remat)(self.heads, self.hidden, self.dropout, self.spread, self.dtype)
            for _ in range(self.layers)
        ]
        self.pooler, self.rank_output = dense(self.hidden), nn.Dense(1, kernel_init=normal)
        self.word_head = WordHead(self.vocab, self.hidden, self.spread, self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def embed_text(self, text: Inputs) -> Embedded:
        """`LN(word + position + type_0)` of [CLS] words [SEP]; `hidden` words are masked."""
        ids: Int[Array, "b w"] = text["ids"]
        zeros, places = jnp.zeros_like(ids), jnp.arange(ids.shape[1])[None]
        words = self.word(ids)
        if "hidden" in text:
            words = jnp.where(text["hidden"][..., None], self.word_head.masked.astype(self.dtype), words)
        x = self.word_norm(words + self.position(places) + self.token_type(zeros))
        return Embedded(x, text["mask"])

    def embed_image(self, image: Inputs) -> Embedded:
        """`LN(LN(W_f f + b) + LN(W_p p + b) + type_1)`; p is the 7-d location, there is no position id."""
        features, place = image["regions"].astype(self.dtype), location(image["boxes"])
        if self.centred:
            place = place - jnp.asarray(MEAN_PLACE)
        for layer in self.region_mlp_layer:
            features = nn.gelu(layer(features))
        x = self.img_layer_norm(self.img_linear(features))
        x = x + self.pos_layer_norm(self.pos_linear(place.astype(self.dtype)))
        x = self.img_norm(x + self.token_type(jnp.ones(features.shape[:2], jnp.int32)))
        return Embedded(x, image["mask"])

    def match(self, text: Embedded, image: Embedded, train: bool = False) -> Matched:
        """The score of each pair (text k with image k), and what the maps are made of.

        The embeddings' dropout is here, so that it differs from pair to pair though they are shared.
        """
        x = last = self.drop(jnp.concatenate([text.x, image.x], axis=1), deterministic=not train)
        mask = jnp.concatenate([text.mask, image.mask], axis=1)
        for layer in self.layer:
            last = x
            x = layer(x, mask, train)
        pooled = jnp.tanh(self.pooler(x[:, 0])).astype(jnp.float32)
        return Matched(self.rank_output(pooled)[:, 0], last, x)

    def maps(
        self, last: Float[Array, "b n h"], text: Bool[Array, "b w"], image: Bool[Array, "b r"]
    ) -> AttentionMaps:
        """The attention maps of the last layer, from its input; [CLS] and [SEP] are no words."""
        count = jnp.sum(text, axis=1, keepdims=True)
        place = jnp.arange(text.shape[1])[None]
        return self.layer[-1].maps(last, (place > 0) & (place < count - 1), image)

    def words(self, text: Inputs, image: Embedded, train: bool = False) -> Float[Array, "b w v"]:
        """The logits of each pair's words from its words, some of them hidden, and its regions."""
        matched = self.match(self.embed_text(text), image, train)
        return self.word_head(matched.x[:, : text["ids"].shape[1]], self.word.embedding)

    def __call__(self, batch: Inputs) -> Float[Array, "b"]:
        """The scores of matched rows; makes every parameter."""
        text, image = batch["text"], self.embed_image(batch["image"])
        if self.mlm:
            self.words(text, image)
        return self.match(self.embed_text(text), image).score
