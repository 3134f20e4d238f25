"""CDDS's constraints on the decoupled components: L_m, L_f and L_x."""

import jax
import jax.numpy as jnp

from jax_itm.types import Array, Bool, Float


def modality_loss(tokens: Float[Array, "b n d"], mask: Bool[Array, "b n"], form: str) -> Float[Array, ""]:
    """L_m of one modality, equation (12), over the pairs of an item's tokens; a mean over items.

    Vectors become distributions by a softmax (INFERRED). As printed, `sum_ij exp(-KL)` (`literal`), its
    minimum drives the components of an item *apart*, against its stated purpose; the default `one_minus`
    is the mean of `1 - exp(-KL)`.
    """
    logs = jax.nn.log_softmax(tokens, axis=-1)
    p = jnp.exp(logs)
    divergence = jnp.sum(p * logs, axis=-1)[:, :, None] - jnp.einsum("bnd,bmd->bnm", p, logs)
    pairs = (mask[:, :, None] & mask[:, None, :]).astype(tokens.dtype)
    alike = jnp.exp(-jnp.maximum(divergence, 0))
    if form == "literal":
        return jnp.mean(jnp.sum(pairs * alike, axis=(1, 2)))
    count = jnp.maximum(jnp.sum(pairs, axis=(1, 2)), 1)
    return jnp.mean(jnp.sum(pairs * (1 - alike), axis=(1, 2)) / count)


def distance(made: Float[Array, "b n d"], tokens: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Array:
    """L_f or L_x of one modality, equations (13, 14): the mean square over true tokens and dimensions."""
    each = jnp.mean((made - tokens) ** 2, axis=-1)
    return jnp.sum(jnp.where(mask, each, 0)) / jnp.sum(mask)
