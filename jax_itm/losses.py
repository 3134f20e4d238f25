"""Contrastive losses over the sharded similarity matrix.

Every loss takes the global batch's embeddings `v` (images) and `t` (texts), L2-normalised, row k of
one matching row k of the other, and `image_id`. Captions of one image are never negatives of each
other. Each is equal, value and gradient, on any number of devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_itm.similarity import Rows, over_rows, score_rows, total
from jax_itm.types import Array, Float, Int, PRNGKeyArray


def both_directions(
    anchor_loss: Callable[[Rows, int], Float[Array, "k"]],
    v: Float[Array, "b d"],
    t: Float[Array, "b d"],
    image_id: Int[Array, "b"],
) -> Float[Array, ""]:
    """The sum over all anchors, images (direction 0) and texts (direction 1), of `anchor_loss`."""

    def rows(v, t, image_id):
        i2t = anchor_loss(score_rows(v, t, image_id), 0)
        t2i = anchor_loss(score_rows(t, v, image_id), 1)
        return total(jnp.sum(i2t) + jnp.sum(t2i))

    return over_rows(rows, v, t, image_id)


def info_nce(
    v: Float[Array, "b d"],
    t: Float[Array, "b d"],
    image_id: Int[Array, "b"],
    scale: Float[Array, ""],
) -> Float[Array, ""]:
    """InfoNCE, the mean over anchors and directions of `-log softmax(scale * s)[own]`.

    Radford et al., 2021 (CLIP), figure 3; here same-image captions are left out of the softmax.
    `scale` is the inverse temperature.
    """

    def anchor(rows: Rows, _: int):
        logits = jnp.where(rows.own | rows.negative, scale * rows.scores, -jnp.inf)
        return jax.nn.logsumexp(logits, axis=1) - scale * rows.positive

    return both_directions(anchor, v, t, image_id) / (2 * v.shape[0])


def sigmoid(
    v: Float[Array, "b d"],
    t: Float[Array, "b d"],
    image_id: Int[Array, "b"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
) -> Float[Array, ""]:
    """SigLIP's pairwise loss: `-1/b sum_ij log sigmoid(z_ij (scale * s_ij + bias))`, z = +-1.

    Zhai et al., 2023, equation (1); same-image pairs that are not the matched one are left out.
    """

    def rows(v, t, image_id):
        block = score_rows(v, t, image_id)
        logits = scale * block.scores + bias
        each = -jax.nn.log_sigmoid(jnp.where(block.own, logits, -logits))
        return total(jnp.sum(jnp.where(block.own | block.negative, each, 0)))

    return over_rows(rows, v, t, image_id) / v.shape[0]


def triplet_sum(
    v: Float[Array, "b d"], t: Float[Array, "b d"], image_id: Int[Array, "b"], margin: float
) -> Float[Array, ""]:
    """The sum over anchors, directions and *all* negatives of `[margin + s_neg - s_pos]_+`."""

    def anchor(rows: Rows, _: int):
        hinge = jax.nn.relu(margin + rows.scores - rows.positive[:, None])
        return jnp.sum(jnp.where(rows.negative, hinge, 0), axis=1)

    return both_directions(anchor, v, t, image_id)


def triplet_hardest(
    v: Float[Array, "b d"], t: Float[Array, "b d"], image_id: Int[Array, "b"], margin: float
) -> Float[Array, ""]:
    """VSE++: the sum over anchors and directions of `[margin + max s_neg - s_pos]_+`.

    Faghri et al., 2018, equation (6). An anchor without any negative contributes nothing.
    """

    def anchor(rows: Rows, _: int):
        hardest = jnp.max(jnp.where(rows.negative, rows.scores, -jnp.inf), axis=1)
        return jax.nn.relu(margin + hardest - rows.positive)

    return both_directions(anchor, v, t, image_id)


def triplet_distance_weighted(
    v: Float[Array, "b d"],
    t: Float[Array, "b d"],
    image_id: Int[Array, "b"],
    margin: float,
    key: PRNGKeyArray,
    *,
    cutoff: float,
    sphere_dim: int = 512,
) -> Float[Array, ""]:
    """A triplet loss with one negative an anchor, drawn with the inverse of the distance density.

        D = max(sqrt(2 - 2 s), 0.5);  log w = (2 - q) log D - ((q - 3) / 2) log(1 - D^2 / 4)

    with `q = sphere_dim` and w = 0 where D >= `cutoff` (Wu et al., 2017; DIAS's spec, section 2).
    Drawn by Gumbel-max on `log w`; the noise is keyed by global row and direction, so that the draw
    does not depend on the number of devices. An anchor without any candidate contributes nothing.
    """

    def anchor(rows: Rows, direction: int):
        log_w = distance_log_weights(jax.lax.stop_gradient(rows.scores), cutoff, sphere_dim)
        drawn = draw_negatives(rows, log_w, jax.random.fold_in(key, direction))
        negative = jnp.take_along_axis(rows.scores, drawn[:, None], axis=1)[:, 0]
        possible = jnp.any(rows.negative & jnp.isfinite(log_w), axis=1)
        return jnp.where(possible, jax.nn.relu(margin + negative - rows.positive), 0)

    return both_directions(anchor, v, t, image_id)


def gap(v: Float[Array, "b d"], t: Float[Array, "b d"]) -> Float[Array, ""]:
    """How much higher matched pairs score than all pairs, on average; 0 where all are one point."""

    def rows(v, t):
        return total((jnp.sum(v * t), jnp.sum(v, axis=0), jnp.sum(t, axis=0)))

    matched, images, texts = over_rows(rows, v, t)
    return matched / len(v) - jnp.vdot(images, texts) / len(v) ** 2


def draw_negatives(rows: Rows, log_w: Float[Array, "k b"], key: PRNGKeyArray) -> Int[Array, "k"]:
    """One negative column a row, with probability proportional to exp(`log_w`), by Gumbel-max.

    The noise of a row depends on `key` and the row's global number alone.
    """
    columns = log_w.shape[1]
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows.ids)
    noise = jax.vmap(lambda k: jax.random.gumbel(k, (columns,)))(keys)
    return jnp.argmax(jnp.where(rows.negative, log_w + noise, -jnp.inf), axis=1)


def distance_log_weights(scores: Float[Array, "*n"], cutoff: float, sphere_dim: int) -> Float[Array, "*n"]:
    """`log w` of `triplet_distance_weighted`; -inf where the distance reaches `cutoff`."""
    distance = jnp.maximum(jnp.sqrt(jnp.maximum(2 - 2 * scores, 0)), 0.5)
    tail = jnp.maximum(1 - distance**2 / 4, 1e-6)  # cutoff < 2 discards all that this floor touches
    log_w = (2 - sphere_dim) * jnp.log(distance) - (sphere_dim - 3) / 2 * jnp.log(tail)
    return jnp.where(distance < cutoff, log_w, -jnp.inf)
