"""DIAS's dimension information alignment: docs/methods/dias.md, equations (9) to (12) and (14)."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_itm.errors import ArgumentError
from jax_itm.losses.inputs import check_shapes, split
from jax_itm.platforms import full_product
from jax_itm.sharded.collectives import Axis, over_rows
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
    """DIAS's L_dim: corresponding dimensions of both modalities correlate, others do not.

    docs/methods/dias.md, equations (9) to (12): the correlation of every dimension of the images with every
    one of the texts, over the samples of the global batch, then an objective that wants it large on the
    diagonal and small elsewhere. A reconstruction: the paper's body could not be had.

    Args:
        images: (m, d) samples, such as L2-normalised embeddings; float32, bfloat16 or float16. To decorrelate
            d dimensions at all, m must be larger than d: see `attended_pairs` and `running_correlation`.
        texts: (m, d) the same; row k matches row k of `images`.
        mask: (m,) which samples are real; None: all.
        form: "ratio", "infonce", "barlow" or "diagonal": see `dimension_objective`.
        phi: "relu", "abs", "square" or "exp"; for "ratio" and "infonce".
        reduce: "mean" or "sum" over the dimensions. The reported loss sums; with its weight of 10 the sum
            drowned the triplet in our runs.
        axis: the mesh axis, or axes, over which the samples are split.

    Returns:
        The loss, a float32 scalar, equal on any number of devices.

    Raises:
        ArgumentError: a ValueError: shapes do not match, an option is unknown, or as for `info_nce`.

    References:
        Ma, Li, Fang, Zhang, Bridging the Modality Gap (DIAS), ACM MM 2024, arXiv 2410.16853.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax_itm import losses
        >>> images = jax.random.normal(jax.random.key(0), (64, 4))
        >>> same = losses.dimension_alignment(images, images)
        >>> swapped = losses.dimension_alignment(images, images[:, ::-1])  # other dimensions correlate
        >>> bool(same < -1.5) and bool(swapped > -0.5)
        True
    """
    return dimension_objective(dimension_correlation(images, texts, mask, axis), form, phi, reduce)


def dimension_correlation(
    images: Float[Array, "m d"],
    texts: Float[Array, "m d"],
    mask: Bool[Array, "m"] | None = None,
    axis: Axis = "data",
) -> Float[Array, "d d"]:
    """The correlation of every pair of dimensions, images by texts: docs/methods/dias.md, equation (9).

        C = A^T B / m,   each column of A and B standardised over the m true samples of the *global* batch

    Args:
        images: (m, d) samples.
        texts: (m, d) samples; row k matches row k of `images`.
        mask: (m,) which samples are real; None: all.
        axis: the mesh axis, or axes, over which the samples are split.

    Returns:
        (d, d) correlations in [-1, 1], equal on all devices: rows are dimensions of the images.

    Raises:
        ArgumentError: as `dimension_alignment`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> images = jnp.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]] * 2)
        >>> print(losses.dimension_correlation(images, images).round(3))
        [[1. 0.]
         [0. 1.]]
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

        return axes.sum(full_product(standardise(a).T, standardise(b))) / count

    return over_rows(axes, rows, a, b, valid)


def dimension_objective(
    correlation: Float[Array, "d d"],
    form: str = "ratio",
    phi: str = "relu",
    reduce: str = "mean",
    eps: float = 1e-6,
) -> Float[Array, ""]:
    """L_dim from the correlations of dimensions: docs/methods/dias.md, (10) to (12), over the dimensions k.

        "ratio"     -(phi(C_kk) / (sum_l phi(C_kl) + eps) + phi(C_kk) / (sum_l phi(C_lk) + eps))
        "infonce"   -log of the two ratios, added (with phi = "exp" in the usual form)
        "barlow"    (1 - C_kk)^2 + 5e-3 sum_{l != k} C_kl^2       (Zbontar et al., 2021)
        "diagonal"  -C_kk

    with phi(c) = max(c, 0), |c|, c^2 or exp(c / 0.1). Ratios of the signed correlations would divide by sums
    that are not positive for half of the dimensions.

    Args:
        correlation: (d, d) from `dimension_correlation` or `running_correlation`.
        form: see above.
        phi: "relu", "abs", "square" or "exp".
        reduce: "mean" or "sum" over the dimensions.
        eps: of the ratios.

    Returns:
        The loss, a scalar.

    Raises:
        ArgumentError: a ValueError: an option is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> print(f"{losses.dimension_objective(jnp.eye(3)):.3f}")
        -2.000
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
    diagonal = _diagonal(c)
    if form == "diagonal":
        return -diagonal
    if form == "barlow":
        return (1 - diagonal) ** 2 + 5e-3 * (jnp.sum(c * c, axis=1) - diagonal**2)
    p = PHI[phi](c)
    own = _diagonal(p)
    by_row = own / (jnp.sum(p, axis=1) + eps)
    by_column = own / (jnp.sum(p, axis=0) + eps)
    if form == "infonce":
        return -jnp.log(by_row + eps) - jnp.log(by_column + eps)
    return -(by_row + by_column)


def _diagonal(c: Float[Array, "d d"]) -> Float[Array, "d"]:
    """The diagonal by a mask: the gradient of `jnp.diagonal` is a scatter, which accelerators do slowly."""
    return jnp.sum(jnp.where(jnp.eye(len(c), dtype=bool), c, 0), axis=1)


def running_correlation(
    previous: Float[Array, "d d"],
    count: Any,
    correlation: Float[Array, "d d"],
    decay: float = 0.9,
) -> Float[Array, "d d"]:
    """The exponential average of C over steps: docs/methods/dias.md, equation (14).

        C(u) = decay stop_gradient(C(u-1)) + (1 - decay) C_batch(u),    C(0) = C_batch(0)

    For batches smaller than the number of dimensions, which cannot decorrelate them. Only the present batch
    carries gradient. INFERRED.

    Args:
        previous: (d, d) what this function returned last; anything of this shape at first.
        count: how many batches went before this one; 0 starts anew.
        correlation: (d, d) of the present batch, from `dimension_correlation`.
        decay: the weight of the past.

    Returns:
        (d, d), for `dimension_objective`, and to be kept for the next step.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> first = losses.running_correlation(jnp.zeros((2, 2)), 0, jnp.eye(2))
        >>> print(losses.running_correlation(first, 1, jnp.zeros((2, 2)), decay=0.75))
        [[0.75 0.  ]
         [0.   0.75]]
    """
    mixed = decay * jax.lax.stop_gradient(previous) + (1 - decay) * correlation
    return jnp.where(jnp.asarray(count) > 0, mixed, correlation)
