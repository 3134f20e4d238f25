"""Negatives of a pool's anchors: the hardest of the pool, as in UNITER and IAIS, or any, at random.

A pool is m matched pairs; its first `anchors` rows are each told from rows of other images.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_itm.types import Array, Bool, Float, Int, NamedTuple, PRNGKeyArray


class Negatives(NamedTuple):
    """Rows of the pool that each anchor is told from."""

    rows: Int[Array, "a k"]
    real: Bool[Array, "a k"]  # false where the pool has fewer rows of other images


def mined(
    score: Callable[[tuple[Array, Array]], Array],
    image_id: Int[Array, "m"],
    anchors: int,
    hardest: int,
    tile: int,
) -> Negatives:
    """The rows with the highest scores; `score` of (anchor, row) is a scalar, taken `tile` at a time."""
    grid = jnp.meshgrid(jnp.arange(anchors), jnp.arange(len(image_id)), indexing="ij")
    scores = jax.lax.map(score, tuple(x.ravel() for x in grid), batch_size=tile)
    return _best(scores.reshape(anchors, -1), image_id, hardest)


def drawn(rng: PRNGKeyArray, image_id: Int[Array, "m"], anchors: int, count: int) -> Negatives:
    """Rows at random, none twice."""
    return _best(jax.random.uniform(rng, (anchors, len(image_id))), image_id, count)


def _best(keys: Float[Array, "a m"], image_id: Int[Array, "m"], count: int) -> Negatives:
    other = image_id[: len(keys), None] != image_id[None, :]
    top, rows = jax.lax.top_k(jnp.where(other, keys, -jnp.inf), count)
    return Negatives(rows, jnp.isfinite(top))


def rank_loss(
    positive: Float[Array, "a"], negative: Float[Array, "a k"], margin: float = 0.2
) -> Float[Array, "a k"]:
    """`[margin + sigmoid(s_neg) - sigmoid(s_pos)]_+` of every anchor and negative."""
    return jax.nn.relu(margin + jax.nn.sigmoid(negative) - jax.nn.sigmoid(positive)[:, None])
