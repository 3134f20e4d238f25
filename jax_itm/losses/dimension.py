"""DIAS's dimension information alignment: the correlation of corresponding embedding dimensions."""

import jax
import jax.numpy as jnp

from jax_itm.arrays import MASKED, Encoded, l2_normalise
from jax_itm.sharded.collectives import over_rows, total
from jax_itm.types import Array, Bool, Float

PHI = {
    "relu": jax.nn.relu,
    "abs": jnp.abs,
    "square": jnp.square,
    "exp": lambda c: jnp.exp(c / 0.1),
}


def dimension_correlation(
    a: Float[Array, "m d"], b: Float[Array, "m d"], valid: Bool[Array, "m"]
) -> Float[Array, "d d"]:
    """`C = A^T B / m`, each column standardised over the true samples of the *global* batch.

    Spec section 3. Samples are split over the devices; C is equal on all of them.
    """

    def rows(a, b, valid):
        weight = valid[:, None].astype(a.dtype)
        count = total(jnp.sum(weight))

        def standardise(x):
            x = (x - total(jnp.sum(x * weight, axis=0)) / count) * weight
            variance = total(jnp.sum(x * x, axis=0)) / count
            return x * jax.lax.rsqrt(variance + 1e-8)

        return total(standardise(a).T @ standardise(b)) / count

    return over_rows(rows, a, b, valid)


def dimension_loss(c: Float[Array, "d d"], form: str, phi: str, eps: float = 1e-6) -> Float[Array, "d"]:
    """L_dim of each dimension k, from the correlations of dimensions (spec section 3).

    ratio     -(phi(C_kk) / (sum_l phi(C_kl) + eps) + phi(C_kk) / (sum_l phi(C_lk) + eps))
    infonce   -log of the two ratios (of phi = exp(./0.1) in the usual form)
    barlow    (1 - C_kk)^2 + 5e-3 sum_{l != k} C_kl^2       (Zbontar et al., 2021)
    diagonal  -C_kk
    """
    diagonal = jnp.diagonal(c)
    if form == "diagonal":
        return -diagonal
    if form == "barlow":
        return (1 - diagonal) ** 2 + 5e-3 * (jnp.sum(c * c, axis=1) - diagonal**2)
    p = PHI[phi](c)
    own = jnp.diagonal(p)
    by_row, by_column = own / (jnp.sum(p, axis=1) + eps), own / (jnp.sum(p, axis=0) + eps)
    if form == "infonce":
        return -jnp.log(by_row + eps) - jnp.log(by_column + eps)
    return -(by_row + by_column)


def attended_pairs(
    image: Encoded, text: Encoded, scale: float = 9.0
) -> tuple[Float[Array, "m d"], Float[Array, "m d"], Bool[Array, "m"]]:
    """Paired samples for L_dim: each region with its mixture of the matched caption's words, and back.

    Attention by cosine times `scale` (SCAN's 9). Used only inside L_dim, never in a score. Returns
    image-side and text-side samples, m = b (r + w), and which of them are real.
    """
    regions, words = l2_normalise(image.tokens), l2_normalise(text.tokens)
    cosine = jnp.einsum("brd,bwd->brw", regions, words)

    def mixture(cosine, mask, tokens):
        weight = jax.nn.softmax(jnp.where(mask[:, None, :], scale * cosine, MASKED), axis=2)
        return jnp.einsum("bqk,bkd->bqd", weight, tokens)

    of_words = mixture(cosine, text.mask, text.tokens)
    of_regions = mixture(jnp.swapaxes(cosine, 1, 2), image.mask, image.tokens)
    flat = lambda *parts: jnp.concatenate(parts, axis=1).reshape(-1, words.shape[-1])
    valid = jnp.concatenate([image.mask, text.mask], axis=1).reshape(-1)
    return flat(image.tokens, of_regions), flat(of_words, text.tokens), valid
