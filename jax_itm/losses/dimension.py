"""DIAS's dimension information alignment: docs/methods/dias.md, equations (9) to (14)."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_itm.arrays import NEG_INF, l2_normalise
from jax_itm.errors import ArgumentError
from jax_itm.losses.inputs import check_shapes, check_tokens, split
from jax_itm.sharded.collectives import Axis, over_rows, per_row
from jax_itm.types import Array, Bool, Float

PHI = {
    "relu": jax.nn.relu,
    "abs": jnp.abs,
    "square": jnp.square,
    "exp": lambda c: jnp.exp(c / 0.1),
}
FORMS = ("ratio", "infonce", "barlow", "diagonal")


def dimension_alignment(
    images: Float[Array, "m d"],
    texts: Float[Array, "m d"],
    *,
    mask: Bool[Array, "m"] | None = None,
    form: str = "ratio",
    phi: str = "relu",
    reduce: str = "mean",
    axis: Axis = "data",
) -> Float[Array, ""]:
    """L_dim: corresponding dimensions of both modalities correlate, others do not."""
    return dimension_objective(dimension_correlation(images, texts, mask, axis), form, phi, reduce)


def dimension_correlation(
    images: Float[Array, "m d"],
    texts: Float[Array, "m d"],
    mask: Bool[Array, "m"] | None = None,
    axis: Axis = "data",
) -> Float[Array, "d d"]:
    """`C = A^T B / m`, each column standardised over the true samples of the *global* batch: equation (9).

    Samples are split over the devices; C is equal on all of them.
    """
    check_shapes(2, images=images, texts=texts)
    valid = jnp.ones(len(images), bool) if mask is None else mask
    if jnp.shape(valid) != (len(images),):
        raise ArgumentError(
            f"mask has shape {jnp.shape(valid)}: must be one value a sample, ({len(images)},)"
        )
    axes, (a, b, valid) = split(axis, images=images, texts=texts, mask=valid)

    def rows(a: Array, b: Array, valid: Array) -> Array:
        weight = valid[:, None].astype(a.dtype)
        count = axes.sum(jnp.sum(weight))

        def standardise(x: Array) -> Array:
            x = (x - axes.sum(jnp.sum(x * weight, axis=0)) / count) * weight
            variance = axes.sum(jnp.sum(x * x, axis=0)) / count
            return x * jax.lax.rsqrt(variance + 1e-8)

        return axes.sum(standardise(a).T @ standardise(b)) / count

    return over_rows(axes, rows, a, b, valid)


def dimension_objective(
    correlation: Float[Array, "d d"],
    form: str = "ratio",
    phi: str = "relu",
    reduce: str = "mean",
    eps: float = 1e-6,
) -> Float[Array, ""]:
    """L_dim from the correlations of dimensions, equations (10) to (12), over the dimensions k.

    ratio     -(phi(C_kk) / (sum_l phi(C_kl) + eps) + phi(C_kk) / (sum_l phi(C_lk) + eps))
    infonce   -log of the two ratios (of phi = exp(./0.1) in the usual form)
    barlow    (1 - C_kk)^2 + 5e-3 sum_{l != k} C_kl^2       (Zbontar et al., 2021)
    diagonal  -C_kk
    """
    for name, value, choices in (
        ("form", form, FORMS),
        ("phi", phi, PHI),
        ("reduce", reduce, ("mean", "sum")),
    ):
        if value not in choices:
            raise ArgumentError(f"{name}={value!r}: must be one of {', '.join(choices)}")
    each = _per_dimension(correlation, form, phi, eps)
    return jnp.sum(each) if reduce == "sum" else jnp.mean(each)


def _per_dimension(c: Float[Array, "d d"], form: str, phi: str, eps: float) -> Float[Array, "d"]:
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


def running_correlation(
    previous: Float[Array, "d d"],
    count: Any,
    correlation: Float[Array, "d d"],
    decay: float = 0.9,
) -> Float[Array, "d d"]:
    """The exponential average of C over steps, equation (14), from the first batch (`count` 0) on.

    Only the present batch carries gradient.
    """
    mixed = decay * jax.lax.stop_gradient(previous) + (1 - decay) * correlation
    return jnp.where(jnp.asarray(count) > 0, mixed, correlation)


def attended_pairs(
    image_tokens: Float[Array, "b r d"],
    image_mask: Bool[Array, "b r"],
    text_tokens: Float[Array, "b w d"],
    text_mask: Bool[Array, "b w"],
    scale: float = 9.0,
    axis: Axis = "data",
) -> tuple[Float[Array, "m d"], Float[Array, "m d"], Bool[Array, "m"]]:
    """Paired samples for L_dim: each region with its mixture of the matched caption's words, and back.

    Attention by cosine times `scale` (SCAN's 9). Used only inside L_dim, never in a score. Returns
    image-side and text-side samples, m = b (r + w), and which of them are real.
    """
    check_tokens(None, image_tokens=image_tokens, image_mask=image_mask)
    check_tokens(len(image_tokens), text_tokens=text_tokens, text_mask=text_mask)
    arrays = {"image_tokens": image_tokens, "image_mask": image_mask, "text_tokens": text_tokens}
    axes, sides = split(axis, **arrays, text_mask=text_mask)

    def mixture(cosine: Array, mask: Array, tokens: Array) -> Array:
        weight = jax.nn.softmax(jnp.where(mask[:, None, :], scale * cosine, NEG_INF), axis=2)
        return jnp.einsum("bqk,bkd->bqd", weight, tokens)

    def samples(v: Array, v_mask: Array, t: Array, t_mask: Array) -> tuple[Array, Array, Array]:
        cosine = jnp.einsum("brd,bwd->brw", l2_normalise(v), l2_normalise(t))
        of_words = mixture(cosine, t_mask, t)
        of_regions = mixture(jnp.swapaxes(cosine, 1, 2), v_mask, v)
        flat = lambda *parts: jnp.concatenate(parts, axis=1).reshape(-1, v.shape[-1])
        valid = jnp.concatenate([v_mask, t_mask], axis=1).reshape(-1)
        return flat(v, of_regions), flat(of_words, t), valid

    return per_row(axes, samples, *sides)
