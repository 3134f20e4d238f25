"""CDDS's constraints on the decoupled components: docs/methods/cdds.md, (12) to (14), (23), (24)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_itm.errors import ArgumentError
from jax_itm.losses.inputs import check_shapes, check_tokens, split
from jax_itm.platforms import FULL
from jax_itm.sharded.collectives import Axis
from jax_itm.types import Array, Bool, Float, Terms

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
    """CDDS's constraints on decoupled tokens: docs/methods/cdds.md, equations (12) to (14), (23) to (25).

        loss = modality L_m + fused L_f + crossed L_x
        L_m = mean over items of mean_ij (1 - exp(-KL(v^m_i, v^m_j))), plus text
        L_f = mean over tokens and dimensions of (w_m v^m + w_s v^s - v)^2, plus text
        L_x = the same with w_x v^x, what distribution sampling made of the semantic component

    A part whose factor is 0 is not computed.

    Args:
        image: the images' decoupled tokens.
        text: the texts'; row k belongs to row k of the images.
        weights: (3,) the learnable scalars w_s, w_m, w_x; they start at 1.
        sampled: V_x and T_x, `sample_distributions(..)[:2]`; L_x needs them.
        modality: factor of L_m.
        fused: factor of L_f, alpha_f of the paper.
        crossed: factor of L_x, 1 - alpha_f of the paper.
        modality_form: "one_minus", or "literal", L_m as printed: see `modality_loss`.
        axis: the mesh axis, or axes, over which the batch is split.

    Returns:
        The loss, a float32 scalar.

    Raises:
        ArgumentError: a ValueError: shapes do not match, L_x without `sampled`, or as for `info_nce`.

    References:
        Ma, Fang, Xu, Zhang, Aligning the True Semantics (CDDS), AAAI 2026, arXiv 2603.05566.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> tokens, mask = jnp.ones((8, 3, 4)), jnp.ones((8, 3), bool)
        >>> side = losses.Components(semantic=tokens / 2, modality=tokens / 2, origin=tokens, mask=mask)
        >>> print(losses.decoupling(side, side, weights=jnp.ones(3), sampled=(tokens / 2, tokens / 2)))
        0.0
    """
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
    """`decoupling` with its parts; the arguments are the same.

    Returns:
        `decoupling`, the weighted sum, and `modality` L_m, `fused` L_f and `crossed` L_x as they are, those
        that have a factor.

    Raises:
        ArgumentError: as `decoupling`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> tokens, mask = jnp.ones((8, 3, 4)), jnp.ones((8, 3), bool)
        >>> side = losses.Components(semantic=tokens, modality=tokens, origin=tokens, mask=mask)
        >>> terms = losses.decoupling_terms(side, side, weights=jnp.ones(3), crossed=0.0)
        >>> print(terms["fused"], sorted(terms))
        2.0 ['decoupling', 'fused', 'modality']
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
    """L_m of one modality, over the pairs of an item's tokens: docs/methods/cdds.md, equations (12) and (23).

        "one_minus"   mean over items of mean_ij (1 - exp(-KL(v_i, v_j)))
        "literal"     mean over items of sum_ij exp(-KL(v_i, v_j))

    Vectors become distributions by a softmax (INFERRED). As printed, its minimum drives the components of an
    item *apart*, against its stated purpose that they be alike.

    Args:
        tokens: (b, n, d) modality components.
        mask: (b, n) true tokens.
        form: see above.

    Returns:
        The loss, a scalar.

    Raises:
        ArgumentError: a ValueError: the form is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> tokens, mask = jnp.ones((8, 3, 4)), jnp.ones((8, 3), bool)
        >>> print(losses.modality_loss(tokens, mask), losses.modality_loss(tokens, mask, "literal"))
        0.0 9.0
    """
    if form not in MODALITY_FORMS:
        raise ArgumentError(f"modality_form={form!r}: must be one of {', '.join(MODALITY_FORMS)}")
    logs = jax.nn.log_softmax(tokens, axis=-1)
    p = jnp.exp(logs)
    divergence = jnp.sum(p * logs, axis=-1)[:, :, None] - jnp.einsum("bnd,bmd->bnm", p, logs, precision=FULL)
    token_pairs = (mask[:, :, None] & mask[:, None, :]).astype(tokens.dtype)
    alike = jnp.exp(-jnp.maximum(divergence, 0))
    if form == "literal":
        return jnp.mean(jnp.sum(token_pairs * alike, axis=(1, 2)))
    count = jnp.maximum(jnp.sum(token_pairs, axis=(1, 2)), 1)
    return jnp.mean(jnp.sum(token_pairs * (1 - alike), axis=(1, 2)) / count)


def reconstruction_loss(
    reconstructed: Float[Array, "b n d"], tokens: Float[Array, "b n d"], mask: Bool[Array, "b n"]
) -> Float[Array, ""]:
    """L_f or L_x of one modality: docs/methods/cdds.md, equations (13), (14) and (24).

    Args:
        reconstructed: (b, n, d) the sum of the components.
        tokens: (b, n, d) what was decoupled.
        mask: (b, n) true tokens.

    Returns:
        The mean squared difference over true tokens and dimensions, a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> tokens, mask = jnp.ones((8, 3, 4)), jnp.ones((8, 3), bool)
        >>> print(losses.reconstruction_loss(0 * tokens, tokens, mask))
        1.0
    """
    each = jnp.mean((reconstructed - tokens) ** 2, axis=-1)
    return jnp.sum(jnp.where(mask, each, 0)) / jnp.sum(mask)
