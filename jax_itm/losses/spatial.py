"""DIAS's constraints on the spatial relations of unmatched pairs: docs/methods/dias.md, (16) to (21).

Which relations are strong enough is decided by thresholds over the *global* batch, in a first traversal of
the matrix; the second takes the losses and their gradients.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_itm.errors import ArgumentError
from jax_itm.losses.inputs import pairs
from jax_itm.sharded.collectives import Axis
from jax_itm.sharded.reductions import Summary, fold, pair_sum
from jax_itm.sharded.tiles import PLAN, Matrix, Plan, Products, Side, Tile
from jax_itm.types import Array, Bool, Float, Int, PyTree, Terms

# Of p = v + t and m = v - t: the discrepancies are sums of p.m and m.p alone, and P has no gradient.
PRODUCTS = Products(((0, 1), (1, 0)), ((0, 0), (1, 1)), lambda x: (x[0] + x[1], x[0] - x[1]))
SELECT_ON = ("proximity", "distance", "discrepancy_large", "none")
MASK_TEMPERATURE = 0.02  # of the soft mask


def spatial_constraint(
    images: Float[Array, "b d"],
    texts: Float[Array, "b d"],
    *,
    inter: float = 0.05,
    intra: float = 0.1,
    alpha: Float[Array, "*n"] | float = 1.0,
    select_on: str = "proximity",
    mask: str = "hard",
    image_ids: Int[Array, "b"] | None = None,
    axis: Axis = "data",
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """DIAS's constraints on the distances of unmatched pairs: docs/methods/dias.md, equations (16) to (21).

        X_ij = 1 - v_i.t_j,   Y_ij = 1 - v_i.v_j,   Z_ij = 1 - t_i.t_j
        L_inter = sum_{i != j} (M^x_ij (X_ij - X_ji))^2,    L_intra = sum_{i != j} (M^yz_ij (Y_ij - Z_ij))^2
        loss = inter L_inter + intra L_intra

    over unmatched pairs of different images. `M` keeps the strongly correlated pairs, by thresholds over the
    global batch, and has no gradient:

        P_ij = sigmoid(-distance_ij),    k_i = mean_j P_ij + alpha std_j P_ij
        M_ij = 1[P_ij > max(k_row_i, k_col_j)],    or with mask="soft" sigmoid((P_ij - max) / 0.02)

    The form is that of CyCLIP's consistency terms. A reconstruction: the paper's body could not be had. We
    leave out pairs of one image as the diagonal is.

    Args:
        images: (b, d) L2-normalised embeddings v of the global batch; float32, bfloat16 or float16.
        texts: (b, d) the same, t; row k matches row k of `images`.
        inter, intra: weights. 0.05 and 0.1 are reported; 0.005 and 0.01 are CyCLIP's proportions, and safer.
        alpha: of the thresholds; a scalar, or (2,) for both. Has a gradient with the soft mask alone.
        select_on: the argument of P: "proximity" (near pairs), "distance" (far pairs), "discrepancy_large"
            (strong disagreements), or "none": all pairs are kept.
        mask: of the selection: "hard", 0 or 1, or "soft", a sigmoid.
        image_ids, axis, plan: as for `info_nce`.

    Returns:
        The loss, a float32 scalar: sums over pairs, which grow with the batch.

    Raises:
        ArgumentError: a ValueError, in one line, as for `info_nce`.

    References:
        Ma, Li, Fang, Zhang, Bridging the Modality Gap (DIAS), ACM MM 2024, arXiv 2410.16853.
        Goel et al., CyCLIP: Cyclic Contrastive Language-Image Pretraining, NeurIPS 2022.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax_itm import losses
        >>> images = losses.l2_normalise(jax.random.normal(jax.random.key(0), (8, 4)))
        >>> texts = losses.l2_normalise(jax.random.normal(jax.random.key(1), (8, 4)))
        >>> print(f"{losses.spatial_constraint(images, images):.3f}")  # equal embeddings agree
        0.000
        >>> bool(losses.spatial_constraint(images, texts, select_on="none") > 1)
        True
    """
    options = {"inter": inter, "intra": intra, "alpha": alpha, "select_on": select_on, "mask": mask}
    return spatial_terms(images, texts, **options, image_ids=image_ids, axis=axis, plan=plan)["spatial"]


def spatial_terms(
    images: Float[Array, "b d"],
    texts: Float[Array, "b d"],
    *,
    inter: float = 0.05,
    intra: float = 0.1,
    alpha: Float[Array, "*n"] | float = 1.0,
    select_on: str = "proximity",
    mask: str = "hard",
    image_ids: Int[Array, "b"] | None = None,
    axis: Axis = "data",
    plan: Plan = PLAN,
) -> Terms:
    """`spatial_constraint` with its parts; the arguments are the same.

    Returns:
        `spatial`, the loss; `inter` and `intra`, L_inter and L_intra as they are; `inter_kept` and
        `intra_kept`, the share of the unmatched pairs that each selection keeps. Only `spatial` carries
        gradient: the traversal that gives it takes the derivative of this sum at once.

    Raises:
        ArgumentError: as `spatial_constraint`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> terms = losses.spatial_terms(jnp.eye(8), jnp.eye(8), select_on="none")
        >>> print(terms["inter_kept"])
        1.0
    """
    for name, value, choices in (("select_on", select_on, SELECT_ON), ("mask", mask, ("hard", "soft"))):
        if value not in choices:
            raise ArgumentError(f"{name}={value!r}: must be one of {', '.join(choices)}")
    batch = pairs(images, texts, image_ids, axis)
    matrix = batch.matrix(plan).of(PRODUCTS)
    v = batch.images
    t = batch.texts
    limits = ()
    if select_on != "none":
        alpha = jnp.broadcast_to(jnp.asarray(alpha, v.dtype), (2,))
        limits = _thresholds(matrix, Side((v, t), batch.image_ids), alpha, select_on)

    def of_tile(tile: Tile, row: PyTree, column: PyTree, _: PyTree) -> tuple[Array, Terms]:
        sums = _tile_sums(tile, row, column, select_on, mask == "soft")
        return inter * sums["inter"] + intra * sums["intra"], sums

    side = Side((v, t), batch.image_ids, limits)
    both: Any = pair_sum(matrix, of_tile, side, None, ())
    value, sums = both
    count = jnp.maximum(sums.pop("pairs"), 1)
    shares = {name: sums[name] / count for name in ("inter_kept", "intra_kept")}
    return {"spatial": value} | sums | shares


def _tile_sums(tile: Tile, row: PyTree, column: PyTree, select_on: str, soft: bool) -> Terms:
    """The sums of one tile, over the pairs (i, j) and (j, i)."""
    inter_apart, intra_apart, *strengths = relations(tile, select_on)
    both = lambda a, b: jnp.maximum(a[:, None], b[None, :])
    limit = (None, None, None)
    if select_on != "none":  # M_ij: k_row of i and k_col of j; M_ji
        limit = both(row[0], column[1]), both(row[1], column[0]), both(row[2], column[2])
    strengths = jax.lax.stop_gradient(strengths)
    masks = [_mask(p, tile.negative, k, soft) for p, k in zip(strengths, limit, strict=True)]
    total = lambda each: jnp.sum(each, dtype=inter_apart.dtype)
    return {
        "inter": total((masks[0] ** 2 + masks[1] ** 2) * inter_apart**2),
        "intra": 2 * total(masks[2] ** 2 * intra_apart**2),
        "inter_kept": total(masks[0] + masks[1]),
        "intra_kept": 2 * total(masks[2]),
        "pairs": 2 * total(tile.negative),
    }


def _mask(
    p: Float[Array, "r c"], unmatched: Bool[Array, "r c"], limit: Float[Array, "r c"] | None, soft: bool
) -> Float[Array, "r c"]:
    """M of equation (21), hard or soft; all unmatched pairs where there is no limit."""
    if limit is None:
        return unmatched.astype(p.dtype)
    kept = jax.nn.sigmoid((p - limit) / MASK_TEMPERATURE) if soft else (p > limit).astype(p.dtype)
    return jnp.where(unmatched, kept, 0)


def _thresholds(matrix: Matrix, side: Side, alpha: Float[Array, "2"], select_on: str) -> tuple[Array, ...]:
    """`k_row` and `k_col` of the inter selection, and the one of intra, whose P is symmetric: equation (20).

        k_row_i = mean_j P_ij + alpha std_j P_ij,  k_col_j likewise over i

    P carries no gradient, alpha does. Pairs of one image are left out of the statistics as the diagonal is.
    """
    (count, of), _ = fold(matrix, _moments(select_on, alpha.dtype), jax.lax.stop_gradient(side), None)
    limit = lambda moments, alpha: moments[0] + alpha * jnp.sqrt(moments[1] / jnp.maximum(count, 1))
    return limit(of[0], alpha[0]), limit(of[1], alpha[0]), limit(of[2], alpha[1])


def correlation_strength(
    select_on: str, distance: Float[Array, "r c"], discrepancy: Float[Array, "r c"]
) -> Float[Array, "r c"]:
    """`P` of equation (19): what the sparse selection compares with its thresholds."""
    argument = {"distance": distance, "discrepancy_large": jnp.abs(discrepancy)}
    return jax.nn.sigmoid(argument.get(select_on, -distance))


def relations(tile: Tile, select_on: str) -> tuple[Array, Array, Array, Array, Array]:
    """The discrepancies of a tile's pairs, inter and intra, and their strengths P.

    A tile's scores are those of p_i.m_j, m_i.p_j, p_i.p_j, m_i.m_j for rows i, columns j, with p = v + t
    and m = v - t. Returns X_ij - X_ji and Y_ij - Z_ij, P_ij and P_ji of inter, P_ij = P_ji of intra.
    """
    pm, mp, pp, mm = tile.scores
    inter, intra = (pm - mp) / 2, -(pm + mp) / 2  # t_i.v_j - v_i.t_j and t_i.t_j - v_i.v_j
    mean, near = 1 - (pp - mm) / 4, 1 - (pp + mm) / 4  # of X_ij and X_ji, of Y_ij and Z_ij
    distances = (mean + inter / 2, inter), (mean - inter / 2, inter), (near, intra)
    forth, back, intra_strength = (correlation_strength(select_on, *each) for each in distances)
    return inter, intra, forth, back, intra_strength


def _moments(select_on: str, dtype: jnp.dtype) -> Summary:
    """Count, mean and squared deviation, over unmatched pairs, of P_ij, P_ji and intra's P.

    Joined by Chan's formula: sums of squares would lose the small deviations of near-equal scores.
    """
    zero = np.zeros((), dtype)

    def reduce(tile: Tile, axis: int, _: PyTree) -> PyTree:
        _, _, forth, back, intra = relations(tile, select_on)
        unmatched = tile.negative
        count = jnp.sum(unmatched, axis, dtype=dtype)

        def of(p: Array) -> tuple[Array, Array]:
            mean = jnp.sum(jnp.where(unmatched, p, 0), axis) / jnp.maximum(count, 1)
            return mean, jnp.sum(jnp.where(unmatched, (p - jnp.expand_dims(mean, axis)) ** 2, 0), axis)

        # seen from a column j, the pair's P_ij is the one of its mirror image
        return count, tuple(of(p) for p in ((forth, back, intra) if axis else (back, forth, intra)))

    def merge(a: PyTree, b: PyTree) -> PyTree:
        count = a[0] + b[0]
        share = b[0] / jnp.maximum(count, 1)

        def of(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
            apart = other[0] - one[0]
            return one[0] + apart * share, one[1] + other[1] + apart**2 * a[0] * share

        return count, tuple(of(one, other) for one, other in zip(a[1], b[1], strict=True))

    return Summary((zero, ((zero, zero),) * 3), reduce, merge)
