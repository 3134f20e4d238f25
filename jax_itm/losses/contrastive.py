"""Contrastive losses over the sharded similarity matrix.

Every loss takes the global batch's embeddings `v` (images) and `t` (texts), L2-normalised, row k of
one matching row k of the other, and `image_id`. Captions of one image are never negatives of each
other. Each is equal, value and gradient, on any number of devices and for any `Plan` of the walk.
Matched pairs are taken outside the tiles: their scores are the row sums of `v * t`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p

from jax_itm.sharded.collectives import over_rows, total
from jax_itm.sharded.negatives import Chosen, choose, log_sum_exp
from jax_itm.sharded.reductions import pair_sum
from jax_itm.sharded.tiles import PLAN, Plan
from jax_itm.types import Array, Float, Int, PRNGKeyArray, UInt


def matched(v: Float[Array, "b d"], t: Float[Array, "b d"]) -> Float[Array, "b"]:
    """The scores of the matched pairs."""
    return jnp.sum(v * t, axis=1)


def info_nce(
    v: Float[Array, "b d"],
    t: Float[Array, "b d"],
    image_id: Int[Array, "b"],
    scale: Float[Array, ""],
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """InfoNCE, the mean over anchors and directions of `-log softmax(scale * s)[own]`.

    Radford et al., 2021 (CLIP), figure 3; here same-image captions are left out of the softmax.
    `scale` is the inverse temperature. As written here, with the log-sum-exp over negatives alone:
    `-log softmax = softplus(lse - scale * own)`.
    """
    own = scale * matched(v, t)
    lse: Any = log_sum_exp(v, t, image_id, scale, plan)
    return jnp.mean(jax.nn.softplus(lse[0] - own) + jax.nn.softplus(lse[1] - own)) / 2


def sigmoid(
    v: Float[Array, "b d"],
    t: Float[Array, "b d"],
    image_id: Int[Array, "b"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """SigLIP's pairwise loss: `-1/b sum_ij log sigmoid(z_ij (scale * s_ij + bias))`, z = +-1.

    Zhai et al., 2023, equation (1); same-image pairs that are not the matched one are left out.
    """

    def unmatched(tile, row, column, params):
        z = params[0] * tile.scores[0] + params[1]
        each = jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))  # jax.nn.softplus, in 2/3 of its time
        return jnp.sum(jnp.where(tile.negative, each, 0)) / len(v), ()

    found: Any = pair_sum(unmatched, (v,), (t,), (), (), (scale, bias), image_id, plan)
    return found[0] + jnp.mean(jax.nn.softplus(-(scale * matched(v, t) + bias)))


def triplet_sum(
    v: Float[Array, "b d"],
    t: Float[Array, "b d"],
    image_id: Int[Array, "b"],
    margin: float,
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """The sum over anchors, directions and *all* negatives of `[margin + s_neg - s_pos]_+`."""

    def hinges(tile, row, column, params):
        by_row = jax.nn.relu(margin + tile.scores[0] - row[:, None])
        by_column = jax.nn.relu(margin + tile.scores[0] - column[None, :])
        return jnp.sum(jnp.where(tile.negative, by_row + by_column, 0)), ()

    own = matched(v, t)
    found: Any = pair_sum(hinges, (v,), (t,), own, own, (), image_id, plan)
    return found[0]


def _hinges(v, t, margin: float, row: Chosen, column: Chosen) -> Float[Array, ""]:
    own = matched(v, t)
    hinge = lambda one: jnp.where(one.possible, jax.nn.relu(margin + one.score - own), 0)
    return jnp.sum(hinge(row) + hinge(column))


def triplet_hardest(
    v: Float[Array, "b d"],
    t: Float[Array, "b d"],
    image_id: Int[Array, "b"],
    margin: float,
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """VSE++: the sum over anchors and directions of `[margin + max s_neg - s_pos]_+`.

    Faghri et al., 2018, equation (6). An anchor without any negative contributes nothing. Among equal
    maxima the first row or column of the batch is the hardest, and it alone has gradient.
    """
    chosen: Any = choose(None, v, t, image_id, (), plan)
    return _hinges(v, t, margin, *chosen)


def triplet_distance_weighted(
    v: Float[Array, "b d"],
    t: Float[Array, "b d"],
    image_id: Int[Array, "b"],
    margin: float,
    key: PRNGKeyArray,
    *,
    cutoff: float,
    sphere_dim: int = 512,
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """A triplet loss with one negative an anchor, drawn with the inverse of the distance density.

        D = max(sqrt(2 - 2 s), 0.5);  log w = (2 - q) log D - ((q - 3) / 2) log(1 - D^2 / 4)

    with `q = sphere_dim` and w = 0 where D >= `cutoff` (Wu et al., 2017; DIAS's spec, section 2).
    Drawn by Gumbel-max on `log w`; the noise is keyed by the pair's global row and column and the
    direction, so that the draw depends neither on the number of devices nor on the tiles. An anchor
    without any candidate contributes nothing.
    """

    def keys(tile, axis, params):
        return distance_log_weights(tile.scores[0], cutoff, sphere_dim) + pair_gumbel(tile, axis, params)

    chosen: Any = choose(keys, v, t, image_id, jax.random.key_data(key), plan)
    return _hinges(v, t, margin, *chosen)


def gap(v: Float[Array, "b d"], t: Float[Array, "b d"]) -> Float[Array, ""]:
    """How much higher matched pairs score than all pairs, on average; 0 where all are one point."""

    def rows(v, t):
        return total((jnp.sum(v * t), jnp.sum(v, axis=0), jnp.sum(t, axis=0)))

    own, images, texts = over_rows(rows, v, t)
    return own / len(v) - jnp.vdot(images, texts) / len(v) ** 2


def pair_gumbel(tile, axis: int, key_data: UInt[Array, "2"]) -> Float[Array, "r c"]:
    """Gumbel noise of every pair of a tile, one for its row's draw (axis 1), one for its column's.

    Counter-based: threefry of (key; global row, global column), whose two words serve the two draws.
    """
    shape = tile.scores[0].shape
    row = jnp.broadcast_to(tile.row[:, None], shape).astype(jnp.uint32)
    column = jnp.broadcast_to(tile.column[None, :], shape).astype(jnp.uint32)
    words = threefry2x32_p.bind(*jnp.broadcast_to(key_data[:, None, None], (2, *shape)), row, column)
    bits = words[0] if axis else words[1]
    uniform = ((bits >> 8).astype(jnp.float32) + 0.5) * 2.0**-24  # never 0 nor 1
    return -jnp.log(-jnp.log(uniform)).astype(tile.scores[0].dtype)


def distance_log_weights(scores: Float[Array, "*n"], cutoff: float, sphere_dim: int) -> Float[Array, "*n"]:
    """`log w` of `triplet_distance_weighted`; -inf where the distance reaches `cutoff`."""
    squared = jnp.maximum(2 - 2 * scores, 0.25)  # D^2
    tail = jnp.maximum(1 - squared / 4, 1e-6)  # cutoff < 2 discards all that this floor touches
    log_w = (2 - sphere_dim) / 2 * jnp.log(squared) - (sphere_dim - 3) / 2 * jnp.log(tail)
    return jnp.where(squared < cutoff**2, log_w, -jnp.inf)
