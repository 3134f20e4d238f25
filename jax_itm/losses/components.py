"""CDDS's constraints on the decoupled components: docs/methods/cdds.md, (12) to (14), (23), (24)."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_itm.errors import ArgumentError
from jax_itm.losses.inputs import check_shapes, check_tokens, split
from jax_itm.sharded.collectives import Axis
from jax_itm.types import Array, Bool, Float, NamedTuple, Terms

SEMANTIC, MODALITY, SAMPLED = range(3)  # of the learnable weights w_s, w_m, w_x
MODALITY_FORMS = ("one_minus", "literal")


class Components(NamedTuple):
    """One modality's decoupled tokens."""

    semantic: Float[Array, "b n d"]
    modality: Float[Array, "b n d"]
    origin: Float[Array, "b n d"]  # the tokens that were decoupled
    mask: Bool[Array, "b n"]  # true tokens


def decoupling(
    image: Components,
    text: Components,
    *,
    weights: Float[Array, "3"],
    sampled: tuple[Float[Array, "b r d"], Float[Array, "b w d"]] | None = None,
    modality: float = 0.1,
    fused: float = 0.5,
    crossed: float = 0.5,
    modality_form: str = "one_minus",
    axis: Axis = "data",
) -> Float[Array, ""]:
    """`modality L_m + fused L_f + crossed L_x`: see `decoupling_terms`."""
    factors = {"modality": modality, "fused": fused, "crossed": crossed}
    options = {"sampled": sampled, "modality_form": modality_form, "axis": axis}
    return decoupling_terms(image, text, weights=weights, **factors, **options)["decoupling"]


def decoupling_terms(
    image: Components,
    text: Components,
    *,
    weights: Float[Array, "3"],
    sampled: tuple[Float[Array, "b r d"], Float[Array, "b w d"]] | None = None,
    modality: float = 0.1,
    fused: float = 0.5,
    crossed: float = 0.5,
    modality_form: str = "one_minus",
    axis: Axis = "data",
) -> Terms:
    """`decoupling`, the weighted sum, and `modality` L_m, `fused` L_f, `crossed` L_x as they are.

    `weights` are the learnable scalars of the semantic, the modality and the sampled component; `sampled` are
    V_x and T_x of `sample_distributions`, which L_x needs. A part whose factor is 0 is not computed.
    """
    if crossed and sampled is None:
        raise ArgumentError("sampled: L_x needs V_x and T_x of sample_distributions, or crossed=0")
    sides = []
    for name, side in (("image", image), ("text", text)):
        tokens = {f"{name}.{field}": getattr(side, field) for field in ("semantic", "modality", "origin")}
        check_shapes(3, **tokens)
        check_tokens(None, **{f"{name}.semantic": side.semantic, f"{name}.mask": side.mask})
        sides.append(split(axis, **{name: side})[1][0])
    v, t = sides
    terms = {}
    if modality:
        terms["modality"] = sum(modality_loss(one.modality, one.mask, modality_form) for one in (v, t))
    if fused:
        terms["fused"] = _fit(weights, SEMANTIC, (v, t), (v.semantic, t.semantic))
    if crossed:
        terms["crossed"] = _fit(weights, SAMPLED, (v, t), split(axis, sampled=sampled)[1][0])
    factors = {"modality": modality, "fused": fused, "crossed": crossed}
    total = sum((factors[name] * term for name, term in terms.items()), jnp.zeros((), v.origin.dtype))
    return {"decoupling": total} | terms


def _fit(weights: Array, part: int, sides: Any, parts: Any) -> Float[Array, ""]:
    """`|w_m v^m + w v - v|^2` of both modalities, v what was decoupled."""
    each = [
        reconstruction_loss(weights[MODALITY] * one.modality + weights[part] * x, one.origin, one.mask)
        for one, x in zip(sides, parts, strict=True)
    ]
    return each[0] + each[1]


def modality_loss(
    tokens: Float[Array, "b n d"], mask: Bool[Array, "b n"], form: str = "one_minus"
) -> Float[Array, ""]:
    """L_m of one modality, equation (12), over the pairs of an item's tokens; a mean over items.

    Vectors become distributions by a softmax (INFERRED). As printed, `sum_ij exp(-KL)` (`literal`), its
    minimum drives the components of an item *apart*, against its stated purpose; the default `one_minus`
    is the mean of `1 - exp(-KL)`.
    """
    if form not in MODALITY_FORMS:
        raise ArgumentError(f"modality_form={form!r}: must be one of {', '.join(MODALITY_FORMS)}")
    logs = jax.nn.log_softmax(tokens, axis=-1)
    p = jnp.exp(logs)
    divergence = jnp.sum(p * logs, axis=-1)[:, :, None] - jnp.einsum("bnd,bmd->bnm", p, logs)
    token_pairs = (mask[:, :, None] & mask[:, None, :]).astype(tokens.dtype)
    alike = jnp.exp(-jnp.maximum(divergence, 0))
    if form == "literal":
        return jnp.mean(jnp.sum(token_pairs * alike, axis=(1, 2)))
    count = jnp.maximum(jnp.sum(token_pairs, axis=(1, 2)), 1)
    return jnp.mean(jnp.sum(token_pairs * (1 - alike), axis=(1, 2)) / count)


def reconstruction_loss(
    reconstructed: Float[Array, "b n d"], tokens: Float[Array, "b n d"], mask: Bool[Array, "b n"]
) -> Float[Array, ""]:
    """L_f or L_x of one modality, equations (13, 14): the mean square over true tokens and dimensions."""
    each = jnp.mean((reconstructed - tokens) ** 2, axis=-1)
    return jnp.sum(jnp.where(mask, each, 0)) / jnp.sum(mask)
