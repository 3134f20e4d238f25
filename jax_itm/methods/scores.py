"""How a dual encoder scores an image with a text.

A score keeps of each side what it needs (`encode`), so that a gallery is encoded once.
"""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from jax_itm.arrays import Encoded, l2_normalise, mean_pool
from jax_itm.errors import UserError
from jax_itm.losses.columns import ColumnSelection, Moments, relatedness, select_both
from jax_itm.losses.token_similarity import TokenSet, maxmean, maxmean_pairs, token_set
from jax_itm.platforms import full_product
from jax_itm.protocols import SCORES
from jax_itm.types import Array, Config, Float, Params, PyTree


@runtime_checkable
class Score(Protocol):
    """A score of pairs.

    Attributes:
        name: its name in results.
        first_name: the name of the fast score of a first pass.
    """

    name: str
    first_name: str

    def encode(self, params: Params, side: str, encoded: Encoded) -> PyTree:
        """What the score needs of one side; every leaf has the items on axis 0."""
        ...

    def all_pairs(self, images: PyTree, texts: PyTree) -> Float[Array, "i t"]:
        """Every image with every text."""
        ...

    def pairs(self, images: PyTree, texts: PyTree) -> Float[Array, "k"]:
        """Row k's image with row k's text."""
        ...

    def first_pass(self, images: PyTree, texts: PyTree) -> Float[Array, "i t"]:
        """Every image with every text, by a fast score."""
        ...


class Cosine:
    """The cosine of the embeddings."""

    name = "cosine"
    first_name = "cosine"

    def encode(self, params: Params, side: str, encoded: Encoded) -> Float[Array, "i d"]:
        """The L2-normalised embedding."""
        return encoded.embedding

    def all_pairs(self, images: Float[Array, "i d"], texts: Float[Array, "t d"]) -> Float[Array, "i t"]:
        """One product."""
        return full_product(images, texts.T)

    def pairs(self, images: Float[Array, "k d"], texts: Float[Array, "k d"]) -> Float[Array, "k"]:
        """Row by row."""
        return jnp.sum(images * texts, axis=1)

    def first_pass(self, images: Float[Array, "i d"], texts: Float[Array, "t d"]) -> Float[Array, "i t"]:
        """The same: nothing is faster."""
        return self.all_pairs(images, texts)


class MaxMean:
    """Every token with its best partner on the other side (docs/methods/cdds.md, equation (26))."""

    name = "maxmean"
    first_name = "cosine"

    def encode(self, params: Params, side: str, encoded: Encoded) -> TokenSet:
        """The tokens, and their embedding for a first pass."""
        return token_set(encoded.tokens, encoded.mask, encoded.embedding)

    def all_pairs(self, images: TokenSet, texts: TokenSet) -> Float[Array, "i t"]:
        """In tiles."""
        return maxmean(images, texts)

    def pairs(self, images: TokenSet, texts: TokenSet) -> Float[Array, "k"]:
        """Row by row."""
        return maxmean_pairs(images, texts)

    def first_pass(self, images: TokenSet, texts: TokenSet) -> Float[Array, "i t"]:
        """The cosine of the embeddings."""
        return full_product(images.pooled, texts.pooled.T)


class Mapped(Cosine):
    """The cosine through the map S between dimensions (docs/methods/cdds.md, equation (27)).

    S is that of the columns' moments over the whole run, which the term `sampling` averages.

    Args:
        options: `config.losses.sampling`.
    """

    name = "mapped"
    first_name = "mapped"

    def __init__(self, options: Config):
        self.options = options

    def encode(self, params: Params, side: str, encoded: Encoded) -> Float[Array, "i m"]:
        """[own ; the other side's as seen through S], m = 2 d: the score is the mean of both cosines."""
        _, selected = mean_selection(params, self.options)
        weights = selected[0 if side == "text" else 1].weights
        through = l2_normalise(full_product(mean_pool(encoded.tokens, encoded.mask), weights.T))
        halves = [encoded.embedding, through]
        return jnp.concatenate(halves if side == "image" else halves[::-1], axis=1) / jnp.sqrt(2.0)


def mean_selection(params: Params, options: Config) -> tuple[Array, tuple[ColumnSelection, ColumnSelection]]:
    """log S, S_v and S_t of the moments averaged over the run, not those of one batch."""
    moments = params["stats"]["losses"]["sampling"]["moments"]
    image, text = (Moments(mean, jnp.exp(log)) for mean, log in moments)
    return selection(params, image, text, options)


def selection(
    params: Params, image: Moments, text: Moments, options: Config
) -> tuple[Array, tuple[ColumnSelection, ColumnSelection]]:
    """log S, S_v and S_t of columns with these moments, by the learnt thresholds."""
    log_s = relatedness(image, text)
    thresholds = params["loss"]["sampling"]["thresholds"]
    return log_s, select_both(log_s, thresholds, options.threshold_on, options.identity)


def make_score(name: str, sampling_options: Config) -> Score:
    """The score `config.score`.

    Raises:
        UserError: there is none of that name.
    """
    if name not in SCORES:
        raise UserError(f"config.score={name!r}: must be one of {', '.join(map(repr, SCORES))}")
    return {"cosine": Cosine, "maxmean": MaxMean, "mapped": lambda: Mapped(sampling_options)}[name]()
