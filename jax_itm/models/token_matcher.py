"""A small single-stream matcher on the tokens of a dual encoder, which are aligned before fusion."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.arrays import AttentionMaps, Encoded, l2_normalise
from jax_itm.models.layers import Dense, TransformerLayer, gelu, maybe_remat
from jax_itm.models.repeated import in_turn
from jax_itm.models.uniter import Embedded, Matched, attention_maps
from jax_itm.platforms import FULL
from jax_itm.types import SIDES, Array, Bool, Float, Inputs

LATE_WEIGHT = 5.0  # at the start, of each direction's mean cosine
POOLED_WEIGHT = 10.0  # at the start, of the embeddings' cosine: the sigmoid loss's own start
FAR = -2.0  # below every cosine


class TokenMatcher(nn.Module):
    """Layers over the words and the regions of a pair, whose inputs are aligned already.

    Li et al., "Align before Fuse", NeurIPS 2021 (ALBEF): a matcher that starts from tokens which two encoders
    have learnt to align needs far less than one that starts from words and features. Here the tokens are
    those of a dual encoder, after its projections and before its pooling; one map that both sides share (so
    that aligned tokens stay aligned) and a small one of each side's own, which starts at zero, bring them to
    the matcher's width. The score is

        s = a_t mean_w max_r cos(w, r) + a_v mean_r max_w cos(w, r) + MLP([CLS]) + a_e cos(e_t, e_v)

    of the last layer's words w and regions r (the late interaction of FILIP, Yao et al., ICLR 2022) and, if
    `pooled`, the dual encoder's embeddings e_t and e_v. The learnt a_t and a_v start at 5, a_e at 10.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax_itm.models import BagOfWords, RegionEncoder
        >>> text = {"ids": jnp.ones((2, 5), jnp.int32), "mask": jnp.ones((2, 5), bool)}
        >>> image = {"regions": jnp.ones((2, 3, 6)), "boxes": jnp.zeros((2, 3, 4))}
        >>> batch = {"text": text, "image": image | {"mask": jnp.ones((2, 3), bool)}}
        >>> encoders = {"image": RegionEncoder(8), "text": BagOfWords(8, vocab=10)}
        >>> matcher = TokenMatcher(**encoders, hidden=8, layers=1, heads=2)
        >>> matcher.apply(matcher.init(jax.random.key(0), batch), batch).shape
        (2,)

    Attributes:
        image: the dual encoder's module of images, which gives `Encoded`.
        text: that of texts.
        hidden: width of a layer.
        layers: number of layers.
        heads: attention heads of a layer.
        dropout: of the tokens and of what each part of a layer adds.
        late: whether the late interaction is part of the score.
        pooled: whether the cosine of the encoders' embeddings is part of the score.
        frozen: whether the encoders have no gradient.
        remat: whether the backward pass computes the layers again.
        dtype: of the computation.
    """

    image: nn.Module
    text: nn.Module
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    late: bool = True
    pooled: bool = False
    frozen: bool = True
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    def setup(self) -> None:
        """Its parts."""
        norm = lambda: nn.LayerNorm(dtype=self.dtype)
        self.token_norm = norm()
        self.shared = Dense(self.hidden, use_bias=False, dtype=self.dtype)
        self.own = {
            side: Dense(self.hidden, dtype=self.dtype, kernel_init=nn.initializers.zeros) for side in SIDES
        }
        self.summary = self.param("summary", nn.initializers.normal(0.02), (self.hidden,))
        layer = maybe_remat(TransformerLayer, self.remat)
        self.layer = [
            layer(self.heads, 4 * self.hidden, dropout=self.dropout, dtype=self.dtype, act="gelu")
            for _ in range(self.layers)
        ]
        self.out_norm = norm()
        self.head_hidden = Dense(self.hidden, dtype=self.dtype)
        self.head_out = Dense(1, kernel_init=nn.initializers.zeros)  # in the precision of its input
        self.late_weights = self.param("late_weights", nn.initializers.constant(LATE_WEIGHT), (2,))
        if self.pooled:
            self.pooled_weight = self.param("pooled_weight", nn.initializers.constant(POOLED_WEIGHT), ())
        self.drop = nn.Dropout(self.dropout)

    def embed_text(self, text: Inputs, train: bool = False) -> Embedded:
        """The words in the matcher's width; `train` is for the encoder's dropout."""
        return self._embed("text", self.text(text, train))

    def embed_image(self, image: Inputs, train: bool = False) -> Embedded:
        """The regions or patches in the matcher's width."""
        return self._embed("image", self.image(image, train))

    def _embed(self, side: str, encoded: Encoded) -> Embedded:
        encoded = jax.lax.stop_gradient(encoded) if self.frozen else encoded
        normed = self.token_norm(encoded.tokens.astype(self.dtype))
        x = self.shared(normed) + self.own[side](normed)
        return Embedded(x, encoded.mask, encoded.embedding if self.pooled else None)

    def match(self, text: Embedded, image: Embedded, train: bool = False) -> Matched:
        """The score of each pair (text k with image k); the sequence is a summary token, words, regions."""
        count = text.x.shape[1]
        rows = len(text.x)
        summary = jnp.broadcast_to(self.summary.astype(self.dtype), (rows, 1, self.hidden))
        x = jnp.concatenate([summary, self.drop(text.x, deterministic=not train)], axis=1)
        x = jnp.concatenate([x, self.drop(image.x, deterministic=not train)], axis=1)
        mask = jnp.concatenate([jnp.ones((rows, 1), bool), text.mask, image.mask], axis=1)
        x, last = in_turn(self.layer, x, mask, train)
        x = self.out_norm(x)
        x = x.astype(jnp.promote_types(self.dtype, jnp.float32))  # scores are float32 at least
        score = self.head_out(gelu(self.head_hidden(x[:, 0])).astype(x.dtype))[:, 0]
        if self.late:
            words = (x[:, 1 : count + 1], text.mask)
            score = score + late_interaction(words, (x[:, count + 1 :], image.mask), self.late_weights)
        if text.pooled is not None and image.pooled is not None:
            cosine = jnp.einsum("bd,bd->b", text.pooled, image.pooled, precision=FULL)
            score = score + self.pooled_weight * cosine
        return Matched(score, last, x)

    def maps(
        self, last: Float[Array, "b n h"], text: Bool[Array, "b w"], image: Bool[Array, "b r"]
    ) -> AttentionMaps:
        """The attention maps of the last layer, from its input; a caption's first and last token, [CLS] and
        [SEP], are no words."""
        count = jnp.sum(text, axis=1, keepdims=True)
        index = jnp.arange(text.shape[1])[None]
        query, key = self.layer[-1].queries_and_keys(last[:, 1:])
        return attention_maps(query, key, (index > 0) & (index < count - 1), image)

    def __call__(self, batch: Inputs) -> Float[Array, "b"]:
        """The scores of matched rows; makes every parameter."""
        return self.match(self.embed_text(batch["text"]), self.embed_image(batch["image"])).score


def late_interaction(
    words: tuple[Float[Array, "b w h"], Bool[Array, "b w"]],
    regions: tuple[Float[Array, "b r h"], Bool[Array, "b r"]],
    weights: Float[Array, "2"],
) -> Float[Array, "b"]:
    """`a_t mean_w max_r cos(w, r) + a_v mean_r max_w cos(w, r)` over true words and regions.

    Yao et al., FILIP, ICLR 2022, equations (4) and (5).

    Args:
        words: tokens and which of them are true, of row k's text.
        regions: the same of row k's image.
        weights: (a_t, a_v).
    """
    cosine = jnp.einsum("bwh,brh->bwr", l2_normalise(words[0]), l2_normalise(regions[0]), precision=FULL)
    cosine = jnp.where(words[1][:, :, None] & regions[1][:, None, :], cosine, FAR)

    def mean_of_best(axis: int, mask: Any) -> Float[Array, "b"]:
        best = jnp.where(mask, jnp.max(cosine, axis=axis), 0)
        return jnp.sum(best, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)

    return weights[0] * mean_of_best(2, words[1]) + weights[1] * mean_of_best(1, regions[1])
