"""InfoNCE and the sigmoid loss over the sharded matrix: docs/methods/contrastive.md, equations (3) to (6).

Captions of one image are never negatives of each other. Matched pairs are taken outside the tiles: their
scores are the row sums of `images * texts`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jax_itm.losses.inputs import pairs
from jax_itm.sharded.collectives import Axis, over_rows
from jax_itm.sharded.log_sum_exp import log_sum_exp
from jax_itm.sharded.reductions import pair_sum
from jax_itm.sharded.tiles import PLAN, Plan, Side, Tile
from jax_itm.types import Array, Float, Int, PyTree


def info_nce(
    images: Float[Array, "b d"],
    texts: Float[Array, "b d"],
    *,
    scale: Float[Array, ""] | float,
    image_ids: Int[Array, "b"] | None = None,
    axis: Axis = "data",
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """InfoNCE, CLIP's symmetric cross-entropy: docs/methods/contrastive.md, equation (4).

        L = 1/(2b) sum_i [ softplus(lse_i - a s_ii) + softplus(lse'_i - a s_ii) ],   s_ij = images_i . texts_j

    with scale `a`, and `lse_i`, `lse'_i` the log-sum-exp of a s_ij and a s_ji over the negatives j of anchor
    i. As `-log softmax = softplus(lse over the negatives - own)`, this is the cross-entropy of CLIP where
    every row has its own image. We depart from it in that other captions of the same image are left out of
    the softmax.

    Args:
        images: (b, d) L2-normalised embeddings of the global batch; float32, bfloat16 or float16.
        texts: (b, d) the same; row k matches row k of `images`.
        scale: the inverse temperature; learnable.
        image_ids: (b,) equal numbers mark captions of one image, which are never negatives of each other.
            None: all rows are of different images.
        axis: the mesh axis, or axes, over which the batch is split.
        plan: how the matrix of scores is traversed; it changes nothing but time, memory and rounding.

    Returns:
        The loss, a float32 scalar, equal on any number of devices. Gradients have the dtypes of the inputs.

    Raises:
        ArgumentError: a ValueError, in one line: shapes do not match, the mesh has no such axis, the call is
            inside a `shard_map` over it, the devices do not divide the rows, or arrays are split while no
            mesh is set.

    References:
        Radford et al., Learning Transferable Visual Models From Natural Language Supervision (CLIP), ICML
        2021, figure 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> images, texts = jnp.eye(8), jnp.eye(8)  # a score of 1 with the own text, of 0 with the others
        >>> print(f"{losses.info_nce(images, texts, scale=1.0):.4f}")  # log(e + 7) - 1
        1.2740
        >>> print(f"{losses.info_nce(images, texts, scale=10.0):.4f}")
        0.0003
    """
    batch = pairs(images, texts, image_ids, axis)
    scale = jnp.asarray(scale, batch.images.dtype)
    own = scale * batch.matched
    rows = batch.images, batch.texts, batch.image_ids
    by_image, by_text = log_sum_exp(batch.matrix(plan), *rows, scale)
    return jnp.mean(jax.nn.softplus(by_image - own) + jax.nn.softplus(by_text - own)) / 2


def sigmoid(
    images: Float[Array, "b d"],
    texts: Float[Array, "b d"],
    *,
    scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float,
    image_ids: Int[Array, "b"] | None = None,
    axis: Axis = "data",
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """SigLIP's pairwise loss: docs/methods/contrastive.md, equation (6).

        L = 1/b [ sum_i softplus(-(a s_ii + beta)) + sum_i sum_j softplus(a s_ij + beta) ],  j a negative of i

    Every pair is a binary decision of its own. Captions of the same image other than the matched one are left
    out; SigLIP takes them as negatives.

    Args:
        images: (b, d) L2-normalised embeddings of the global batch; float32, bfloat16 or float16.
        texts: (b, d) the same; row k matches row k of `images`.
        scale: `a`, the inverse temperature; learnable. SigLIP starts at 10.
        bias: `beta`; learnable. SigLIP starts at -10.
        image_ids: (b,) equal numbers mark captions of one image, which are never negatives of each other.
            None: all rows are of different images.
        axis: the mesh axis, or axes, over which the batch is split.
        plan: how the matrix of scores is traversed; it changes nothing but time, memory and rounding.

    Returns:
        The loss, a float32 scalar: a sum over a row's pairs, a mean over rows.

    Raises:
        ArgumentError: a ValueError, in one line: shapes do not match, the mesh has no such axis, the call is
            inside a `shard_map` over it, the devices do not divide the rows, or arrays are split while no
            mesh is set.

    References:
        Zhai, Mustafa, Kolesnikov, Beyer, Sigmoid Loss for Language Image Pre-Training (SigLIP), ICCV 2023,
        equation (1).

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> loss = losses.sigmoid(jnp.eye(8), jnp.eye(8), scale=10.0, bias=-5.0)
        >>> print(f"{loss:.4f}")  # 8 log(1 + e^-5)
        0.0537
    """
    batch = pairs(images, texts, image_ids, axis)
    rows = len(batch.images)
    scale, bias = (jnp.asarray(x, batch.images.dtype) for x in (scale, bias))

    def unmatched(tile: Tile, row: PyTree, column: PyTree, params: PyTree) -> tuple[Array, tuple]:
        z = params[0] * tile.scores[0] + params[1]
        each = jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))  # jax.nn.softplus, in 2/3 of its time
        return jnp.sum(jnp.where(tile.negative, each, 0)) / rows, ()

    sides = Side((batch.images,), batch.image_ids), Side((batch.texts,), batch.image_ids)
    negatives: Any = pair_sum(batch.matrix(plan), unmatched, *sides, (scale, bias))
    return negatives[0] + jnp.mean(jax.nn.softplus(-(scale * batch.matched + bias)))


def score_gap(
    images: Float[Array, "b d"], texts: Float[Array, "b d"], *, axis: Axis = "data"
) -> Float[Array, ""]:
    """How much higher matched pairs score than all pairs, on average: docs/methods/contrastive.md, (14).

        gap = mean_i s_ii - mean_ij s_ij

    A diagnostic: it stays near 0 where all embeddings have collapsed to one point. No scores are formed.

    Args:
        images: (b, d) L2-normalised embeddings of the global batch.
        texts: (b, d) the same; row k matches row k of `images`.
        axis: the mesh axis, or axes, over which the batch is split.

    Returns:
        The gap, a float32 scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> print(losses.score_gap(jnp.eye(8), jnp.eye(8)))
        0.875
        >>> print(losses.score_gap(jnp.ones((8, 1)), jnp.ones((8, 1))))
        0.0
    """
    batch = pairs(images, texts, None, axis)

    def rows(v: Array, t: Array) -> Any:
        return batch.axes.sum((jnp.sum(v * t), jnp.sum(v, axis=0), jnp.sum(t, axis=0)))

    own, v, t = over_rows(batch.axes, rows, batch.images, batch.texts)
    return own / len(batch.images) - jnp.vdot(v, t) / len(batch.images) ** 2
