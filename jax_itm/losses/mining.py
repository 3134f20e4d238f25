"""Negatives of a cross-encoder's anchors, and the loss that ranks them: docs/methods/iais.md, (12) and (15).

A pool is m matched pairs; its first `anchors` rows are each ranked above rows of other images of it: the
hardest, as in UNITER and IAIS, or random ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_itm.arrays import NEG_INF
from jax_itm.types import Array, Bool, Float, Int, PRNGKeyArray


class Negatives(NamedTuple):
    """Rows of the pool that are each anchor's negatives."""

    rows: Int[Array, "a k"]
    real: Bool[Array, "a k"]  # false where the pool has fewer rows of other images


def mine_hardest(
    score: Callable[[tuple[Array, Array]], Array],
    image_ids: Int[Array, "m"],
    anchors: int,
    hardest: int,
    tile: int,
) -> Negatives:
    """The rows with the highest scores; `score` of (anchor, row) is a scalar, taken `tile` at a time."""
    grid = jnp.meshgrid(jnp.arange(anchors), jnp.arange(len(image_ids)), indexing="ij")
    scores = jax.lax.map(score, tuple(x.ravel() for x in grid), batch_size=tile)
    return _largest(scores.reshape(anchors, -1), image_ids, hardest)


def draw_random(key: PRNGKeyArray, image_ids: Int[Array, "m"], anchors: int, count: int) -> Negatives:
    """Random rows, none twice."""
    return _largest(jax.random.uniform(key, (anchors, len(image_ids))), image_ids, count)


def _largest(values: Float[Array, "a m"], image_ids: Int[Array, "m"], count: int) -> Negatives:
    other = image_ids[: len(values), None] != image_ids[None, :]
    top, rows = jax.lax.top_k(jnp.where(other, values, -jnp.inf), count)
    return Negatives(rows, jnp.isfinite(top))


def pool_softmax(scores: Float[Array, "m m"], image_ids: Int[Array, "m"] | None = None) -> Float[Array, ""]:
    """The softmax over a pool's candidates, both ways: docs/methods/iais.md, equation (21).

        L = 1/2m sum_i [-log p(text i | image i) - log p(image i | text i)]

    with the pool's rows as candidates; rows of the same image are none of each other's.

    Args:
        scores: (m, m) the logit of image i with text j; matched pairs on the diagonal.
        image_ids: (m,) equal numbers mark captions of one image. None: all rows are of different images.

    Returns:
        A scalar.

    References:
        Li et al., "Align before Fuse", NeurIPS 2021, takes one hard negative a pair instead, in a two-way
        classification; a softmax over candidates is InfoNCE's, of a cross-encoder's scores.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> print(f"{losses.pool_softmax(jnp.zeros((4, 4))):.4f}")  # log 4
        1.3863
    """
    if image_ids is not None:
        is_same = (image_ids[:, None] == image_ids[None, :]) & ~jnp.eye(len(scores), dtype=bool)
        scores = jnp.where(is_same, NEG_INF, scores)
    own = jnp.diagonal(scores)
    both = jax.nn.logsumexp(scores, axis=1) + jax.nn.logsumexp(scores, axis=0)
    return jnp.mean(both / 2 - own)


def rank_loss(
    positive: Float[Array, "a"], negative: Float[Array, "a k"], margin: float = 0.2
) -> Float[Array, "a k"]:
    """UNITER's and IAIS's ranking loss of every anchor and negative: docs/methods/iais.md, equation (12).

        [margin + sigmoid(s_neg) - sigmoid(s_pos)]_+

    Args:
        positive: (a,) the logit of each anchor's matched pair.
        negative: (a, k) the logits of its negatives.
        margin: between the probabilities.

    Returns:
        (a, k) one value a negative; the method takes their mean.

    References:
        Chen et al., UNITER, ECCV 2020; Ren et al., IAIS, ACL 2021, released code.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> hinges = losses.rank_loss(jnp.array([0.0]), jnp.array([[0.0, -10.0]]))
        >>> [f"{hinge:.2f}" for hinge in hinges[0]]
        ['0.20', '0.00']
    """
    return jax.nn.relu(margin + jax.nn.sigmoid(negative) - jax.nn.sigmoid(positive)[:, None])
