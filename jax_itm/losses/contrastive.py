"""InfoNCE and the sigmoid loss over the sharded matrix: docs/methods/contrastive.md, equations (3) to (6).

Captions of one image are never negatives of each other. Matched pairs are taken outside the tiles: their
scores are the row sums of `images * texts`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jax_itm.losses.inputs import pairs
from jax_itm.sharded.collectives import Axis, over_rows
from jax_itm.sharded.negatives import log_sum_exp
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
    """InfoNCE, the mean over anchors and directions of `-log softmax(scale * s)[own]`.

    Radford et al., 2021 (CLIP), figure 3; here same-image captions are left out of the softmax.
    `scale` is the inverse temperature. As written here, with the log-sum-exp over negatives alone:
    `-log softmax = softplus(lse - scale * own)`.
    """
    batch = pairs(images, texts, image_ids, axis)
    scale = jnp.asarray(scale, batch.images.dtype)
    own = scale * batch.matched
    lse: Any = log_sum_exp(batch.matrix(plan), batch.images, batch.texts, batch.image_ids, scale)
    return jnp.mean(jax.nn.softplus(lse[0] - own) + jax.nn.softplus(lse[1] - own)) / 2


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
    """SigLIP's pairwise loss: `-1/b sum_ij log sigmoid(z_ij (scale * s_ij + bias))`, z = +-1.

    Zhai et al., 2023, equation (1); same-image pairs that are not the matched one are left out.
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
    """How much higher matched pairs score than all pairs, on average; 0 where all are one point."""
    batch = pairs(images, texts, None, axis)

    def rows(v: Array, t: Array) -> Any:
        return batch.axes.sum((jnp.sum(v * t), jnp.sum(v, axis=0), jnp.sum(t, axis=0)))

    own, v, t = over_rows(batch.axes, rows, batch.images, batch.texts)
    return own / len(batch.images) - jnp.vdot(v, t) / len(batch.images) ** 2
