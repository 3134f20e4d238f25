"""What encoders return, and the few array functions that losses and models share. Does not need Flax."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_itm.types import Array, Bool, Float

NEG_INF = -1e9  # a score or a feature that must lose; finite, so that 0 * NEG_INF stays a number


class Encoded(NamedTuple):
    """What an encoder returns: float32 whatever the compute type."""

    embedding: Float[Array, "b d"]  # L2-normalised
    tokens: Float[Array, "b n d"]  # regions, patches or words before pooling
    mask: Bool[Array, "b n"]  # those that took part
    origin: Float[Array, "b n d"] | None = None  # CDDS: the tokens before they were decoupled; else none
    modality: Float[Array, "b n d"] | None = None  # CDDS: the other component; `tokens` is the semantic one


def l2_normalise(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Rows of length one; a zero row stays zero, with a zero gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm.arrays import l2_normalise
        >>> print(l2_normalise(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
        [[0.6 0.8]
         [0.  0. ]]
    """
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def mean_pool(x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """The mean over the true tokens."""
    weight = mask[..., None].astype(x.dtype)
    return jnp.sum(x * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1)


class AttentionMaps(NamedTuple):
    """Attentions among one side's items, and across; rows sum to 1 over the true keys.

    A_LL, A_VV, A_LV and A_VL of words L and regions V, as seen from the aligned side X: for the
    language side X = L, for the vision side X = V.
    """

    own: Float[Array, "b x x"]  # A_XX
    other: Float[Array, "b y y"]  # A_YY
    out: Float[Array, "b x y"]  # A_XY
    back: Float[Array, "b y x"]  # A_YX
    mask: Bool[Array, "b x"]  # true items of the aligned side
    other_mask: Bool[Array, "b y"]

    def turned(self) -> "AttentionMaps":
        """The same, seen from the other side."""
        return AttentionMaps(self.other, self.own, self.back, self.out, self.other_mask, self.mask)
