"""DIAS's constraints on the spatial relations of unmatched pairs, over the sharded matrix.

Ma et al., ACM MM 2024, as reconstructed (sections 4 and 5 of the method's description in
`methods/dias.py`): which relations are strong enough is decided by thresholds over the *global* batch,
in a first walk; the second takes the losses and their gradients.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jax_itm.sharded import reductions
from jax_itm.sharded.tiles import PLAN, Plan, Products, Tile
from jax_itm.types import Array, Float, Int, Terms

# Of p = v + t and m = v - t: the discrepancies are sums of p.m and m.p alone, and P has no gradient.
PRODUCTS = Products(((0, 1), (1, 0)), ((0, 0), (1, 1)), lambda x: (x[0] + x[1], x[0] - x[1]))


def correlation_strength(
    select_on: str, distance: Float[Array, "r c"], discrepancy: Float[Array, "r c"]
) -> Float[Array, "r c"]:
    """`P` of spec section 5: what the sparse selection compares with its thresholds."""
    of = {"proximity": -distance, "distance": distance, "discrepancy_large": jnp.abs(discrepancy)}
    return jax.nn.sigmoid(of[select_on])


def relations(tile: Tile, select_on: str):
    """The discrepancies of a tile's pairs, inter and intra, and their strengths P.

    A tile's scores are those of p_i.m_j, m_i.p_j, p_i.p_j, m_i.m_j for rows i, columns j, with p = v + t
    and m = v - t. Returns X_ij - X_ji and Y_ij - Z_ij, P_ij and P_ji of inter, P_ij = P_ji of intra.
    """
    pm, mp, pp, mm = tile.scores
    inter, intra = (pm - mp) / 2, -(pm + mp) / 2  # t_i.v_j - v_i.t_j and t_i.t_j - v_i.v_j
    mean, near = 1 - (pp - mm) / 4, 1 - (pp + mm) / 4  # of X_ij and X_ji, of Y_ij and Z_ij
    distances = (mean + inter / 2, inter), (mean - inter / 2, inter), (near, intra)
    return inter, intra, *(correlation_strength(select_on, *each) for each in distances)


def moments(select_on: str, dtype) -> reductions.Summary:
    """Count, mean and squared deviation, over unmatched pairs, of P_ij, P_ji and intra's P.

    Joined by Chan's formula: sums of squares would lose the small deviations of near-equal scores.
    """
    zero = jnp.zeros((), dtype)

    def reduce(tile, axis, _):
        _, _, forth, back, intra = relations(tile, select_on)
        unmatched = tile.negative
        count = jnp.sum(unmatched, axis, dtype=dtype)

        def of(p):
            mean = jnp.sum(jnp.where(unmatched, p, 0), axis) / jnp.maximum(count, 1)
            return mean, jnp.sum(jnp.where(unmatched, (p - jnp.expand_dims(mean, axis)) ** 2, 0), axis)

        # seen from a column j, the pair's P_ij is the one of its mirror image
        return count, tuple(of(p) for p in ((forth, back, intra) if axis else (back, forth, intra)))

    def merge(a, b):
        count = a[0] + b[0]
        share = b[0] / jnp.maximum(count, 1)

        def of(one, other):
            apart = other[0] - one[0]
            return one[0] + apart * share, one[1] + other[1] + apart**2 * a[0] * share

        return count, tuple(of(one, other) for one, other in zip(a[1], b[1], strict=True))

    return reductions.Summary((zero, ((zero, zero),) * 3), reduce, merge)


def thresholds(v, t, image_id, alpha: Float[Array, "2"], select_on: str, plan: Plan) -> tuple[Array, ...]:
    """`k_row` and `k_col` of the inter selection, and the one of intra, whose P is symmetric.

        k_row_i = mean_j P_ij + alpha std_j P_ij,  k_col_j likewise over i       (spec section 5)

    P carries no gradient, alpha does. Departs from the spec in one thing: pairs of one image are left
    out of the statistics as the diagonal is.
    """
    v, t = jax.lax.stop_gradient((v, t))
    (count, of), _ = reductions.fold(moments(select_on, v.dtype), (v, t), None, image_id, plan, (), PRODUCTS)
    limit = lambda m, alpha: m[0] + alpha * jnp.sqrt(m[1] / jnp.maximum(count, 1))
    return limit(of[0], alpha[0]), limit(of[1], alpha[0]), limit(of[2], alpha[1])


def spatial_losses(
    v: Float[Array, "b d"],
    t: Float[Array, "b d"],
    image_id: Int[Array, "b"],
    alpha: Float[Array, "2"],
    *,
    inter: float,
    intra: float,
    select_on: str,
    soft: bool,
    plan: Plan = PLAN,
) -> Terms:
    """`spatial` = inter L_inter + intra L_intra, the two apart, and the share of pairs that each keeps.

        X_ij = 1 - v_i.t_j,  Y_ij = 1 - v_i.v_j,  Z_ij = 1 - t_i.t_j
        L_inter = sum (M^x_ij (X_ij - X_ji))^2,   L_intra = sum (M^yz_ij (Y_ij - Z_ij))^2
        M_ij = 1[P_ij > max(k_row_i, k_col_j)], or with `soft` sigmoid((P_ij - max) / 0.02)

    over unmatched pairs (spec sections 4 and 5; the algebra is that of CyCLIP's consistency terms,
    Goel et al., 2022). Only `spatial` carries gradient: the one pass over the tiles that gives it
    takes the derivative of this sum at once. Each unordered pair is looked at once, in both orders.
    """
    if select_on == "none":
        never = jnp.zeros(len(v), v.dtype)
        limits = (never, never, never)
    else:
        limits = thresholds(v, t, image_id, alpha, select_on, plan)

    def mask(p, unmatched, limit):
        if select_on == "none":
            return unmatched.astype(p.dtype)
        kept = jax.nn.sigmoid((p - limit) / 0.02) if soft else (p > limit).astype(p.dtype)
        return jnp.where(unmatched, kept, 0)

    def fn(tile, row, column, _):
        strengths = relations(tile, "proximity" if select_on == "none" else select_on)
        discrepancy = strengths[:2]
        forth, back, near = jax.lax.stop_gradient(strengths[2:])
        both = lambda a, b: jnp.maximum(a[:, None], b[None, :])
        kept = (
            mask(forth, tile.negative, both(row[0], column[1])),  # M_ij: k_row of i, k_col of j
            mask(back, tile.negative, both(row[1], column[0])),  # M_ji
            mask(near, tile.negative, both(row[2], column[2])),
        )
        total = lambda share: jnp.sum(share, dtype=v.dtype)
        sums = {
            "inter": total((kept[0] ** 2 + kept[1] ** 2) * discrepancy[0] ** 2),
            "intra": 2 * total(kept[2] ** 2 * discrepancy[1] ** 2),
            "inter_kept": total(kept[0] + kept[1]),
            "intra_kept": 2 * total(kept[2]),
            "pairs": 2 * total(tile.negative),
        }
        return inter * sums["inter"] + intra * sums["intra"], sums

    found: Any = reductions.pair_sum(fn, (v, t), None, limits, limits, (), image_id, plan, PRODUCTS)
    value, sums = found
    counted = jnp.maximum(sums.pop("pairs"), 1)
    shares = {name: sums[name] / counted for name in ("inter_kept", "intra_kept")}
    return {"spatial": value} | sums | shares
