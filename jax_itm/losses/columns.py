"""Columns of tokens: their moments over the global batch, and how those of both modalities are related.

A *column* is one dimension of the tokens. docs/methods/cdds.md, equations (5) to (9) and (16) to (20).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_itm.arrays import l2_normalise
from jax_itm.losses.inputs import split
from jax_itm.sharded.collectives import Axis, over_rows
from jax_itm.types import Array, Bool, Float

STE_TEMPERATURE = 0.02  # of the sigmoid through which a threshold gets its gradient


def equal_length(tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Tokens of length sqrt(d), so that columns of both modalities compare: docs/methods/cdds.md, (16).

    INFERRED, not in the paper. Encoders' own scales differ: without this every row of S was empty, and noise
    drowned the tokens. Zeros stay zeros.

    Args:
        tokens: (b, n, d) tokens of any length.

    Returns:
        (b, n, d) tokens of length sqrt(d).

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> print(losses.equal_length(jnp.array([[[3.0, 0, 0, 4]]])))
        [[[1.2 0.  0.  1.6]]]
    """
    return l2_normalise(tokens) * jnp.sqrt(float(tokens.shape[-1]))


class Moments(NamedTuple):
    """A column is a Gaussian (INFERRED)."""

    mean: Float[Array, "d"]
    variance: Float[Array, "d"]


class ColumnSelection(NamedTuple):
    """Equations (7) to (9) for one side: how much of each other column a column draws."""

    weights: Float[Array, "d d"]  # rows sum to 1
    kept: Bool[Array, "d d"]  # above the threshold
    empty: Bool[Array, "d"]  # rows of which nothing was: these keep their largest


def column_moments(tokens: Float[Array, "b n d"], mask: Bool[Array, "b n"], axis: Axis = "data") -> Moments:
    """Mean and variance of every column over the true tokens of the *global* batch.

    Args:
        tokens: (b, n, d) tokens.
        mask: (b, n) the true ones.
        axis: the mesh axis, or axes, over which the batch is split.

    Returns:
        `Moments`: the mean (d,) and the variance (d,), equal on all devices.

    Raises:
        ArgumentError: a ValueError: as for `info_nce`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> tokens = jnp.broadcast_to(jnp.array([[1.0], [3.0], [100.0]]), (8, 3, 1))
        >>> mask = jnp.broadcast_to(jnp.array([True, True, False]), (8, 3))
        >>> moments = losses.column_moments(tokens, mask)
        >>> print(moments.mean, moments.variance)
        [2.] [1.]
    """
    axes, (tokens, mask) = split(axis, tokens=tokens, mask=mask)

    def rows(tokens: Array, mask: Array) -> tuple[Array, Array]:
        weight = mask[..., None].astype(tokens.dtype)
        count = jnp.maximum(axes.sum(jnp.sum(weight)), 1)
        mean = axes.sum(jnp.sum(tokens * weight, axis=(0, 1))) / count
        centred = (tokens - mean) * weight
        return mean, axes.sum(jnp.sum(centred * centred, axis=(0, 1))) / count

    return Moments(*over_rows(axes, rows, tokens, mask))


def relatedness(image: Moments, text: Moments) -> Float[Array, "d d"]:
    """`log s_ij = -KL(C^v_i, C^t_j)` of Gaussian columns: equation (5)."""
    v = image.variance[:, None] + 1e-6
    t = text.variance[None, :] + 1e-6
    apart = image.mean[:, None] - text.mean[None, :]
    return -0.5 * (jnp.log(t / v) + (v + apart**2) / t - 1)


def select_columns(
    log_s: Float[Array, "d d"], alpha: Float[Array, ""], threshold_on: str, identity: float
) -> ColumnSelection:
    """The columns that each row of S draws from: equations (6) to (9), `b_ij s_ij / sum_k b_ik s_ik`.

    `k_i = mean_j p + alpha std_j p` with `p = sigmoid(s)`. As printed, (9) compares s itself with k
    (`threshold_on="s"`), a value on p's scale, and so keeps or empties whole rows; the default compares p.
    The mask is hard; backwards it is `sigmoid((p - k) / 0.02)`, or alpha would have no gradient. INFERRED,
    and not in the paper: a share `identity` of the identity is mixed in, `I w + (1 - w) S`.
    """
    s = jnp.exp(log_s)
    p = jax.nn.sigmoid(s)
    spread = jnp.sqrt(jnp.var(p, axis=1, keepdims=True) + 1e-12)
    threshold = jnp.mean(p, axis=1, keepdims=True) + alpha * spread
    compared = p if threshold_on == "p" else s
    kept = compared > threshold
    empty = ~jnp.any(kept, axis=1)
    largest = jnp.arange(s.shape[1]) == jnp.argmax(log_s, axis=1)[:, None]
    soft = jax.nn.sigmoid((compared - threshold) / STE_TEMPERATURE)
    hard = jnp.where(empty[:, None], largest, kept).astype(s.dtype)
    # Columns of different scales have an s that is no float any more; its share of the row is one.
    share = jnp.exp(log_s - jax.lax.stop_gradient(jnp.max(log_s, axis=1, keepdims=True)))
    selected = (hard + soft - jax.lax.stop_gradient(soft)) * share
    weights = selected / jnp.sum(selected, axis=1, keepdims=True)
    return ColumnSelection(identity * jnp.eye(len(s)) + (1 - identity) * weights, kept, empty)


def select_both(
    log_s: Float[Array, "d d"], alpha: Float[Array, "2"], threshold_on: str = "p", identity: float = 0.5
) -> tuple[ColumnSelection, ColumnSelection]:
    """S_v and S_t, each with its own alpha."""
    options = threshold_on, identity
    return select_columns(log_s, alpha[0], *options), select_columns(log_s.T, alpha[1], *options)
