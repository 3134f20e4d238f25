"""Triplet losses over the sharded similarity matrix: docs/methods/contrastive.md, equations (7) to (13)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p

from jax_itm.errors import ArgumentError
from jax_itm.losses.inputs import Pairs, pairs
from jax_itm.sharded.collectives import Axis
from jax_itm.sharded.negatives import Selected, select_negatives, top_k_negatives
from jax_itm.sharded.reductions import pair_sum
from jax_itm.sharded.tiles import PLAN, Matrix, Plan, Side, Tile
from jax_itm.types import Array, Float, Int, PRNGKeyArray, PyTree, Terms, UInt

NEGATIVES = ("sum", "hardest", "distance_weighted", "knn")


class Options(NamedTuple):
    """How the negatives of an anchor are chosen: the arguments of `triplet` by these names."""

    negatives: str
    k: int
    key: PRNGKeyArray | None
    cutoff: float
    sphere_dim: int


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
        margin: by how much a matched pair must outscore a negative.
        negatives, k: see above. An anchor that has fewer than `k` negatives takes all it has.
        key: for "distance_weighted"; a new one each step, of threefry, which is JAX's default.
        cutoff, sphere_dim: for "distance_weighted", with q = sphere_dim. HREM: 1.7 (Flickr30k), 1.9 (COCO);
            with scores around 0 about half of the draws score below average; 1.414 keeps the near half.
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
    batch = pairs(images, texts, image_ids, axis)
    options = Options(negatives, k, key, cutoff, sphere_dim)
    return _terms(batch, batch.matrix(plan), margin, options)["triplet"]


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
        `triplet`, the loss. For distance-weighted negatives also `below_mean`, without gradient: the fraction
        of the drawn negatives that score below the mean score of the anchor's negatives,
        docs/methods/contrastive.md, equation (13). Near 0.5, half of the loss is wasted.

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
    batch = pairs(images, texts, image_ids, axis)
    return _terms(batch, batch.matrix(plan), margin, Options(negatives, k, key, cutoff, sphere_dim))


def _terms(batch: Pairs, matrix: Matrix, margin: float, options: Options) -> Terms:
    if options.negatives not in NEGATIVES:
        raise ArgumentError(f"negatives={options.negatives!r}: must be one of {', '.join(NEGATIVES)}")
    if options.negatives == "sum":
        return {"triplet": _all_negatives(batch, matrix, margin)}
    if options.negatives == "hardest":
        return {"triplet": _hardest(batch, matrix, margin)}
    if options.negatives == "knn":
        return {"triplet": _k_hardest(batch, matrix, margin, options.k)}
    return _distance_weighted(batch, matrix, margin, options)


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


def _hardest(batch: Pairs, matrix: Matrix, margin: float) -> Float[Array, ""]:
    hardest = select_negatives(matrix, None, batch.images, batch.texts, batch.image_ids)
    return _hinges(batch, margin, *hardest)


def _k_hardest(batch: Pairs, matrix: Matrix, margin: float, k: int) -> Float[Array, ""]:
    if k < 1:
        raise ArgumentError(f"k={k}: must be 1 or more")
    hardest = top_k_negatives(matrix, k, batch.images, batch.texts, batch.image_ids)
    own = batch.matched[:, None]

    def mean(side: Selected) -> Array:
        hinge = jnp.where(side.exists, jax.nn.relu(margin + side.score - own), 0)
        return jnp.sum(hinge, axis=1) / jnp.maximum(jnp.sum(side.exists, axis=1), 1)

    return jnp.sum(mean(hardest[0]) + mean(hardest[1]))


def _distance_weighted(batch: Pairs, matrix: Matrix, margin: float, options: Options) -> Terms:
    key_data = _threefry_words(options.key)

    def priority(tile: Tile, axis: int, params: PyTree) -> Array:
        log_w = distance_log_weights(tile.scores[0], options.cutoff, options.sphere_dim)
        return log_w + pair_gumbel(tile, axis, params)

    rows = batch.images, batch.texts, batch.image_ids
    selected = select_negatives(matrix, priority, *rows, key_data)
    below = [jnp.sum(side.exists & (side.score < side.mean)) for side in selected]  # type: ignore[operator]
    count = sum(jnp.sum(side.exists) for side in selected)
    fraction = jax.lax.stop_gradient((below[0] + below[1]) / jnp.maximum(count, 1))
    return {"triplet": _hinges(batch, margin, *selected), "below_mean": fraction}


def _threefry_words(key: PRNGKeyArray | None) -> UInt[Array, "2"]:
    """The key's two words, of which `pair_gumbel` makes its noise."""
    if key is None:
        raise ArgumentError("key: distance-weighted negatives are drawn, and need a jax.random.key")
    if jax.random.key_data(key).shape != (2,):
        raise ArgumentError(
            f"key: {jax.random.key_impl(key)} of shape {key.shape}; distance-weighted negatives need a single"
            " threefry key, such as jax.random.key(0, impl='threefry2x32')"
        )
    return jax.random.key_data(key)


def _hinges(batch: Pairs, margin: float, row: Selected, column: Selected) -> Float[Array, ""]:
    own = batch.matched
    hinge = lambda side: jnp.where(side.exists, jax.nn.relu(margin + side.score - own), 0)
    return jnp.sum(hinge(row) + hinge(column))


def pair_gumbel(tile: Tile, axis: int, key_data: UInt[Array, "2"]) -> Float[Array, "r c"]:
    """Gumbel noise of every pair of a tile, one for its row's draw (axis 1), one for its column's.

    Counter-based: threefry of (key; global row, global column); its first word is for the row's draw, its
    second for the column's.
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
    squared = jnp.maximum(2 - 2 * scores, 0.25)  # D^2, with D at least 0.5 (equation 10)
    # Opposite embeddings, at D = 2, would weigh infinitely. The floor changes D within 1e-6 of 2 alone, which
    # every cutoff up to 1.99999 discards; at the largest cutoff, 2, the floor is their weight.
    tail = jnp.maximum(1 - squared / 4, 1e-6)
    log_w = (2 - sphere_dim) / 2 * jnp.log(squared) - (sphere_dim - 3) / 2 * jnp.log(tail)
    return jnp.where(squared < cutoff**2, log_w, -jnp.inf)
