"""Triplet losses over the sharded similarity matrix: docs/methods/contrastive.md, equations (7) to (13)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p

from jax_itm.errors import ArgumentError
from jax_itm.losses.inputs import Pairs, pairs
from jax_itm.sharded.collectives import Axis
from jax_itm.sharded.negatives import Selected, hardest_negatives, select_negatives
from jax_itm.sharded.reductions import pair_sum
from jax_itm.sharded.tiles import PLAN, Matrix, Plan, Side, Tile
from jax_itm.types import Array, Float, Int, PRNGKeyArray, PyTree, Terms, UInt

NEGATIVES = ("sum", "hardest", "distance_weighted", "knn")


def triplet(
    images: Float[Array, "b d"],
    texts: Float[Array, "b d"],
    *,
    margin: float = 0.2,
    negatives: str = "hardest",
    k: int = 3,
    key: PRNGKeyArray | None = None,
    cutoff: float = 1.7,
    sphere_dim: int = 512,
    image_ids: Int[Array, "b"] | None = None,
    axis: Axis = "data",
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """Triplet losses, summed over anchors and both directions: docs/methods/contrastive.md, (7) to (11).

        L = sum_i ( [margin + s_in - s_ii]_+ + [margin + s_n'i - s_ii]_+ )

    with the negative texts n of image i, and the negative images n' of text i, by `negatives`:

        "sum"                all of them, each with its own hinge                                       (7)
        "hardest"            the one with the largest score (VSE++); the first of equal ones            (8)
        "knn"                the mean hinge of the `k` with the largest scores                          (9)
        "distance_weighted"  one, drawn with the inverse of the density of its distance           (10), (11)

    The draw is equal on any number of devices. An anchor without a negative contributes nothing.

    Args:
        images: (b, d) L2-normalised embeddings of the global batch; float32, bfloat16 or float16.
        texts: (b, d) the same; row k matches row k of `images`.
        margin, negatives: see above.
        k: number of negatives, for "knn". An anchor that has fewer takes all it has.
        key: for "distance_weighted"; a new one each step.
        cutoff, sphere_dim: for "distance_weighted". HREM cuts at 1.7 (Flickr30k) and 1.9 (COCO); with scores
            around 0 half of such draws are far negatives; 1.414 keeps the near half. sphere_dim is q.
        image_ids, axis, plan: as for `info_nce`.

    Returns:
        The loss, a float32 scalar. It is a sum, as in the released code of VSE++: it grows with the batch.

    Raises:
        ArgumentError: a ValueError, in one line, as for `info_nce`.

    References:
        "hardest": Faghri et al., VSE++, BMVC 2018, (6). "knn": Liu, Ye, ACL SRW 2019. "distance_weighted": Wu
        et al., Sampling Matters in Deep Embedding Learning, ICCV 2017, and HREM's code (Fu et al., CVPR
        2023), which drops a whole direction where one anchor has no candidate; we drop that anchor.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> images = texts = jnp.eye(8)
        >>> print(losses.triplet(images, texts, margin=1.5))  # 16 anchors, each with a hinge of 0.5
        8.0
        >>> print(losses.triplet(images, texts, margin=1.5, negatives="sum"))  # and seven negatives each
        56.0
    """
    options = {"k": k, "key": key, "cutoff": cutoff, "sphere_dim": sphere_dim}
    batch = pairs(images, texts, image_ids, axis)
    return _terms(batch, batch.matrix(plan), margin, negatives, options)["triplet"]


def triplet_terms(
    images: Float[Array, "b d"],
    texts: Float[Array, "b d"],
    *,
    margin: float = 0.2,
    negatives: str = "hardest",
    k: int = 3,
    key: PRNGKeyArray | None = None,
    cutoff: float = 1.7,
    sphere_dim: int = 512,
    image_ids: Int[Array, "b"] | None = None,
    axis: Axis = "data",
    plan: Plan = PLAN,
) -> Terms:
    """`triplet` with its diagnostic; the arguments are the same.

    Returns:
        `triplet`, the loss. For distance-weighted negatives also `below_mean`, without gradient: the share of
        the drawn negatives that score below the anchor's mean negative, docs/methods/contrastive.md, equation
        (13). Near 0.5, half of the loss is wasted.

    Raises:
        ArgumentError: as `triplet`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax_itm import losses
        >>> options = {"negatives": "distance_weighted", "key": jax.random.key(0)}
        >>> terms = losses.triplet_terms(jnp.eye(8), jnp.eye(8), **options)
        >>> sorted(terms)
        ['below_mean', 'triplet']
    """
    options = {"k": k, "key": key, "cutoff": cutoff, "sphere_dim": sphere_dim}
    batch = pairs(images, texts, image_ids, axis)
    return _terms(batch, batch.matrix(plan), margin, negatives, options)


def _terms(batch: Pairs, matrix: Matrix, margin: float, negatives: str, options: dict[str, Any]) -> Terms:
    if negatives not in NEGATIVES:
        raise ArgumentError(f"negatives={negatives!r}: must be one of {', '.join(NEGATIVES)}")
    rows = batch.images, batch.texts, batch.image_ids
    if negatives == "sum":
        return {"triplet": _all_negatives(batch, matrix, margin)}
    if negatives == "hardest":
        hardest: Any = select_negatives(matrix, None, *rows, ())
        return {"triplet": _hinges(batch, margin, *hardest)}
    if negatives == "knn":
        if options["k"] < 1:
            raise ArgumentError(f"k={options['k']}: must be 1 or more")
        nearest: Any = hardest_negatives(matrix, options["k"], *rows)
        return {"triplet": _mean_hinges(batch, margin, *nearest)}
    if options["key"] is None:
        raise ArgumentError("key: distance-weighted negatives are drawn, and need a jax.random.key")

    def keys(tile: Tile, axis: int, params: PyTree) -> Array:
        log_w = distance_log_weights(tile.scores[0], options["cutoff"], options["sphere_dim"])
        return log_w + pair_gumbel(tile, axis, params)

    selected: Any = select_negatives(matrix, keys, *rows, jax.random.key_data(options["key"]))
    below = [jnp.sum(one.exists & (one.score < one.mean)) for one in selected]
    count = sum(jnp.sum(one.exists) for one in selected)
    share = jax.lax.stop_gradient((below[0] + below[1]) / jnp.maximum(count, 1))
    return {"triplet": _hinges(batch, margin, *selected), "below_mean": share}


def _all_negatives(batch: Pairs, matrix: Matrix, margin: float) -> Float[Array, ""]:
    def hinges(tile: Tile, row: Array, column: Array, _: PyTree) -> tuple[Array, tuple]:
        by_row = jax.nn.relu(margin + tile.scores[0] - row[:, None])
        by_column = jax.nn.relu(margin + tile.scores[0] - column[None, :])
        return jnp.sum(jnp.where(tile.negative, by_row + by_column, 0)), ()

    own = batch.matched
    rows = Side((batch.images,), batch.image_ids, own)
    columns = Side((batch.texts,), batch.image_ids, own)
    total: Any = pair_sum(matrix, hinges, rows, columns, ())
    return total[0]


def _hinges(batch: Pairs, margin: float, row: Selected, column: Selected) -> Float[Array, ""]:
    own = batch.matched
    hinge = lambda one: jnp.where(one.exists, jax.nn.relu(margin + one.score - own), 0)
    return jnp.sum(hinge(row) + hinge(column))


def _mean_hinges(batch: Pairs, margin: float, row: Selected, column: Selected) -> Float[Array, ""]:
    own = batch.matched[:, None]

    def mean(one: Selected) -> Array:
        hinge = jnp.where(one.exists, jax.nn.relu(margin + one.score - own), 0)
        return jnp.sum(hinge, axis=1) / jnp.maximum(jnp.sum(one.exists, axis=1), 1)

    return jnp.sum(mean(row) + mean(column))


def pair_gumbel(tile: Tile, axis: int, key_data: UInt[Array, "2"]) -> Float[Array, "r c"]:
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
    """`log w` of equation (10); -inf where the distance reaches `cutoff`."""
    squared = jnp.maximum(2 - 2 * scores, 0.25)  # D^2
    tail = jnp.maximum(1 - squared / 4, 1e-6)  # cutoff < 2 discards all that this floor touches
    log_w = (2 - sphere_dim) / 2 * jnp.log(squared) - (sphere_dim - 3) / 2 * jnp.log(tail)
    return jnp.where(squared < cutoff**2, log_w, -jnp.inf)
