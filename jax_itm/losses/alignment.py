"""IAIS: the intra-modal attentions of matched pairs, aligned: docs/methods/iais.md, equations (6) to (13).

Ren et al., "Learning Relation Alignment for Calibrated Cross-modal Retrieval", ACL 2021, arXiv 2105.13868, as
the authors' released code has it (the paper's body could not be had). Letters of the shapes: b matched pairs,
x the items of the aligned side, y those of the other: words (without [CLS] and [SEP]) and regions, either
way round.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from jax_itm.arrays import NEG_INF, AttentionMaps
from jax_itm.errors import ArgumentError
from jax_itm.platforms import FULL
from jax_itm.types import Array, Bool, Float, Int

DISTRIBUTED_EPS = 1e-6  # as released


def square(mask: Bool[Array, "b x"]) -> Bool[Array, "b x x"]:
    """Pairs of true items."""
    return mask[:, :, None] & mask[:, None, :]


def divergence(
    p: Float[Array, "b x y"], q: Float[Array, "b x y"], mask: Bool[Array, "b x y"], eps: float = 0.0
) -> Float[Array, "b"]:
    """`KL(P||Q) = (1/rows) sum_ij P_ij (log P_ij - log(Q_ij + eps))`, true rows and columns: (6).

    Infinite where Q is exactly 0 and P is not; `rows` counts those with any true column.
    """
    p = jnp.where(mask, p, 1.0)
    q = jnp.where(mask, q, 1.0)
    each = jnp.where(mask, xlogy(p, p) - xlogy(p, q + eps), 0)
    rows = jnp.sum(jnp.any(mask, axis=2), axis=1)
    return jnp.sum(each, axis=(1, 2)) / jnp.maximum(rows, 1)


def symmetric_divergence(
    p: Float[Array, "b x y"], q: Float[Array, "b x y"], mask: Bool[Array, "b x y"], eps: float = 0.0
) -> Float[Array, "b"]:
    """`mKL(P, Q) = KL(P||Q) + KL(Q||P)`: equation (6)."""
    return divergence(p, q, mask, eps) + divergence(q, p, mask, eps)


class Target(NamedTuple):
    """What the singular alignment compares a side's own attention with."""

    chosen: Int[Array, "b x"]  # the other side's item that each item attends to most
    extracted: Float[Array, "b x x"]
    rows: Float[Array, "b x x"]  # rows sum to 1


def singular_target(maps: AttentionMaps, softmax: bool = True) -> Target:
    """Each item replaced by the other side's item that it attends to most: equation (7).

        k_i = argmax_j A_XY[i, j],   E_ij = A_YY[k_i, k_j],   rows = softmax_j E

    The first maximum wins and is not differentiable. The softmax is a second one, on probabilities, as
    released; without it E is divided by its row sums, the variant that the paper's figure suggests.
    """
    chosen = jnp.argmax(jnp.where(maps.other_mask[:, None, :], maps.out, -1.0), axis=2)
    extracted = jnp.take_along_axis(maps.other, chosen[:, :, None], axis=1)
    extracted = jnp.take_along_axis(extracted, chosen[:, None, :], axis=2)
    pairs = square(maps.mask)
    if softmax:
        return Target(chosen, extracted, jax.nn.softmax(jnp.where(pairs, extracted, NEG_INF), axis=2))
    kept = jnp.where(pairs, extracted, 0)
    sums = jnp.sum(kept, axis=2, keepdims=True)
    return Target(chosen, extracted, kept / jnp.where(sums > 0, sums, 1))


def singular(maps: AttentionMaps, softmax: bool = True) -> Float[Array, "b"]:
    """The singular alignment of each pair, `mKL(A_XX, singular_target.rows)`: equation (8).

    A weight that is exactly 0 makes it infinite: that is not hidden here.
    """
    return symmetric_divergence(maps.own, singular_target(maps, softmax).rows, square(maps.mask))


def round_trip(maps: AttentionMaps) -> Float[Array, "b x x"]:
    """`P = A_XY A_YX`, attention among one side's items by way of the other side: equation (9)."""
    return jnp.einsum("bxy,byz->bxz", maps.out, maps.back, precision=FULL)


def distributed(maps: AttentionMaps) -> Float[Array, "b"]:
    """The distributed alignment of each pair: equation (10).

    loss = KL'(P || A_XX) + KL'(A_XX || P),   KL'(T||Q) = (1/rows) sum T (log T - log(Q + 1e-6))
    """
    return symmetric_divergence(round_trip(maps), maps.own, square(maps.mask), DISTRIBUTED_EPS)


FORMS = ("singular", "distributed", "congruence")


def attention_alignment(
    maps: AttentionMaps, *, form: str = "singular", singular_softmax: bool = True
) -> Float[Array, "b"]:
    """IAIS's alignment of each matched pair's attentions: docs/methods/iais.md, equations (6) to (11).

        "singular"     mKL(A_XX, P),  P = softmax of A_YY at the items of Y that X's attend to most    (8)
        "distributed"  mKL(A_XY A_YX, A_XX),  with 1e-6 inside the logarithms                         (10)
        "congruence"   mKL(softmax A_XX, softmax sg(A_XY) A_YY sg(A_XY)^T)                            (11)

    mKL is the symmetric divergence, a mean over rows. The softmax of "singular" is a second one, on
    probabilities, as released; it makes attention uniform. An attention weight that is exactly 0 makes
    "singular" infinite: that is not hidden here. Compute the maps in float32 at least.

    Args:
        maps: the attention maps of b matched pairs, seen from the side X that is aligned; `maps.turned()` is
            the other side.
        form: see above.
        singular_softmax: False divides by row sums in "singular", as the paper's figure suggests.

    Returns:
        (b,) one value a pair. The released training sums them over an update.

    Raises:
        ArgumentError: a ValueError: the form is unknown.

    References:
        Ren et al., Learning Relation Alignment for Calibrated Cross-modal Retrieval (IAIS), ACL 2021, and its
        released code. Pandey et al., CACR, ACL 2023, arXiv 2212.10549: "congruence".

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> uniform, true = jnp.full((1, 2, 2), 0.5), jnp.ones((1, 2), bool)
        >>> maps = losses.AttentionMaps(uniform, uniform, uniform, uniform, true, true)
        >>> print(losses.attention_alignment(maps))
        [0.]
        >>> sharp = maps._replace(own=jnp.array([[[0.9, 0.1], [0.1, 0.9]]]))
        >>> print(losses.attention_alignment(sharp).round(2))
        [0.88]
    """
    if form not in FORMS:
        raise ArgumentError(f"form={form!r}: must be one of {', '.join(FORMS)}")
    if form == "singular":
        return singular(maps, singular_softmax)
    return distributed(maps) if form == "distributed" else congruence(maps)


def congruence(maps: AttentionMaps) -> Float[Array, "b"]:
    """The congruence of each pair, equation (11): CACR, Pandey et al., ACL 2023, arXiv 2212.10549.

        P = sg(A_XY) A_YY sg(A_XY)^T,   loss = mKL(softmax(A_XX), softmax(P))

    `sg` stops the gradient. The softmax is on *both* sides, over true keys.
    """
    out = jax.lax.stop_gradient(maps.out)
    true_keys = maps.other_mask[:, None, :]
    out = jnp.where(true_keys, out, 0)
    through = jnp.einsum("bxy,byz,bwz->bxw", out, jnp.where(true_keys, maps.other, 0), out, precision=FULL)
    pairs = square(maps.mask)
    spread = lambda scores: jax.nn.softmax(jnp.where(pairs, scores, NEG_INF), axis=2)
    return symmetric_divergence(spread(maps.own), spread(through), pairs)


def schedule(name: str, progress: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The weight of the alignment at `progress` = u/U of training, by `exp`, `linear` or `log`: (13).

    exp(5 (u/U - 1)), u/U, or 1 - exp(-5 u/U).
    """
    return {
        "exp": lambda p: jnp.exp(5 * (p - 1)),
        "linear": lambda p: p,
        "log": lambda p: 1 - jnp.exp(-5 * p),
    }[name](progress)


def pooled(attention: Float[Array, "b x x"], groups: Bool[Array, "b p x"]) -> Float[Array, "b p p"]:
    """Attention among groups, `R[p, q] = mean_{i in p} sum_{j in q} A[i, j]`, rows renormalised: (17).

    Groups may overlap; an empty group has a row and a column of zeros.
    """
    member = groups.astype(attention.dtype)
    size = jnp.maximum(jnp.sum(member, axis=2), 1)
    among = jnp.einsum("bpx,bxy,bqy->bpq", member, attention, member, precision=FULL) / size[:, :, None]
    total = jnp.sum(among, axis=2, keepdims=True)
    return among / jnp.where(total > 0, total, 1)


def annotated_isd(
    maps: AttentionMaps, phrases: Bool[Array, "b p x"], boxes: Bool[Array, "b p y"]
) -> tuple[Float[Array, "b"], Bool[Array, "b"]]:
    """ISDa, the intra-modal self-attention distance of annotated phrases and their boxes: (17) and (18).

        R_L[p, q] = mean_{i in T_p} sum_{j in T_q} A_LL[i, j],  R_V over boxes B_p,  ISD = mKL(R_L, R_V)

    INFERRED: the metric's code was never released. `maps` of the language side; phrase p has its words
    in `phrases` and its boxes in `boxes`. Returns the distance of each pair, and whether it counts: it
    must have two phrases or more with both.
    """
    real = jnp.any(phrases, axis=2) & jnp.any(boxes, axis=2)
    keep = lambda groups: groups & real[:, :, None]
    texts = pooled(maps.own, keep(phrases))
    images = pooled(maps.other, keep(boxes))
    return symmetric_divergence(texts, images, square(real)), jnp.sum(real, axis=1) >= 2
