"""Scores of token sets: every image's patches with every caption's words, in tiles.

Of the images x captions x patches x words cosines, no more than `CELLS` are in memory at once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_itm.arrays import NEG_INF, l2_normalise
from jax_itm.platforms import full_product
from jax_itm.types import Array, Bool, Float

CELLS = 2**22  # cosines held at once: 16 MiB


class TokenSet(NamedTuple):
    """One side's items."""

    tokens: Float[Array, "i n d"]  # L2-normalised, zeros where padded
    mask: Bool[Array, "i n"]
    pooled: Float[Array, "i d"]  # one vector an item, for a fast first pass


def token_set(
    tokens: Float[Array, "i n d"], mask: Bool[Array, "i n"], pooled: Float[Array, "i d"]
) -> TokenSet:
    """The tokens as `maxmean` takes them."""
    return TokenSet(jnp.where(mask[..., None], l2_normalise(tokens), 0), mask, pooled)


def maxmean_pairs(images: TokenSet, texts: TokenSet) -> Float[Array, "k"]:
    """`mean_w max_r A + mean_r max_w A` of row k's patches r with row k's words w, A their cosines.

    The paper gives no correlation of token sets; this one is INFERRED.
    """
    return jax.vmap(token_set_score)(images, texts)


def maxmean(images: TokenSet, texts: TokenSet) -> Float[Array, "i t"]:
    """The same of every image with every caption."""
    (count, patches), words = images.mask.shape, texts.mask.shape[1]
    rows = max(1, min(count, CELLS // (patches * words)))
    columns = max(1, min(len(texts.mask), CELLS // (rows * patches * words)))

    def of_text(text: TokenSet) -> Array:
        return jax.lax.map(lambda image: token_set_score(image, text), images, batch_size=rows)

    return jax.lax.map(of_text, texts, batch_size=columns).T


def token_set_score(image: TokenSet, text: TokenSet) -> Float[Array, ""]:
    """`maxmean` of one image and one caption, sets without a leading axis."""
    cosine = jnp.where(image.mask[:, None] & text.mask, full_product(image.tokens, text.tokens.T), NEG_INF)
    mean = lambda best, mask: jnp.sum(jnp.where(mask, best, 0)) / jnp.maximum(jnp.sum(mask), 1)
    return mean(jnp.max(cosine, axis=0), text.mask) + mean(jnp.max(cosine, axis=1), image.mask)
