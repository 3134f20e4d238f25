"""The whole objectives of DIAS, CDDS and IAIS, with the presets' weights as defaults.

Each is a weighted sum of this package's terms and nothing more: docs/methods/dias.md (1), cdds.md (15) and
(25), iais.md (14).
"""

import jax.numpy as jnp

from jax_itm.arrays import AttentionMaps
from jax_itm.errors import ArgumentError
from jax_itm.losses.alignment import attention_alignment
from jax_itm.losses.components import Components, decoupling
from jax_itm.losses.dimension import dimension_alignment
from jax_itm.losses.mining import rank_loss
from jax_itm.losses.sampling import Sampling, sample_distributions
from jax_itm.losses.spatial import spatial_constraint
from jax_itm.losses.triplets import triplet
from jax_itm.sharded.collectives import Axis
from jax_itm.sharded.tiles import PLAN, Plan
from jax_itm.types import Array, Bool, Float, Int, PRNGKeyArray


def dias(
    images: Float[Array, "b d"],
    texts: Float[Array, "b d"],
    *,
    key: PRNGKeyArray | None = None,
    margin: float = 0.2,
    negatives: str = "distance_weighted",
    cutoff: float = 1.7,
    dimension: float = 10.0,
    inter: float = 0.05,
    intra: float = 0.1,
    image_ids: Int[Array, "b"] | None = None,
    axis: Axis = "data",
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """DIAS: `L_triplet + dimension L_dim + inter L_inter + intra L_intra`."""
    common = {"image_ids": image_ids, "axis": axis, "plan": plan}
    draw = {"key": key, "cutoff": cutoff} if negatives == "distance_weighted" else {}
    loss = triplet(images, texts, margin=margin, negatives=negatives, **draw, **common)
    if dimension:
        loss += dimension * dimension_alignment(images, texts, axis=axis)
    if inter or intra:
        loss += spatial_constraint(images, texts, inter=inter, intra=intra, **common)
    return loss


def cdds(
    image: Components,
    text: Components,
    *,
    thresholds: Float[Array, "2"],
    weights: Float[Array, "3"],
    sampling: float = 1.0,
    modality: float = 0.1,
    fused: float = 0.5,
    crossed: float = 0.5,
    options: Sampling = Sampling(),  # noqa: B008
    key: PRNGKeyArray | None = None,
    image_ids: Int[Array, "b"] | None = None,
    axis: Axis = "data",
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """CDDS: `sampling L_s + modality L_m + fused L_f + crossed L_x` of decoupled tokens."""
    sampled = sample_distributions(
        image.semantic,
        image.mask,
        text.semantic,
        text.mask,
        thresholds=thresholds,
        image_ids=image_ids,
        options=options,
        key=key,
        origin=(image.origin, text.origin),
        axis=axis,
        plan=plan,
    )
    constraints = decoupling(
        image,
        text,
        weights=weights,
        sampled=(sampled.image, sampled.text),
        modality=modality,
        fused=fused,
        crossed=crossed,
        axis=axis,
    )
    return sampling * sampled.terms["sampling"] + constraints


def iais(
    image_scores: Float[Array, "a k"],
    text_scores: Float[Array, "a k"],
    image_maps: AttentionMaps,
    text_maps: AttentionMaps,
    *,
    weight: Float[Array, ""] | float,
    margin: float = 0.2,
    form: str = "singular",
    singular_softmax: bool = True,
    per_update_mean: bool = False,
    image_real: Bool[Array, "a n"] | None = None,
    text_real: Bool[Array, "a n"] | None = None,
) -> Float[Array, ""]:
    """IAIS of one pool: mean rank losses of both directions, and the alignment of the matched pairs."""
    for name, scores in (("image_scores", image_scores), ("text_scores", text_scores)):
        if scores.ndim != 2 or scores.shape[1] < 2:
            raise ArgumentError(
                f"{name} has shape {scores.shape}: must be (anchors, 1 + negatives), the matched pair's first"
            )

    def rank(scores: Array, real: Array | None) -> Array:
        each = rank_loss(scores[:, 0], scores[:, 1:], margin)
        real = jnp.ones(each.shape, bool) if real is None else real
        return jnp.sum(jnp.where(real, each, 0)) / jnp.maximum(jnp.sum(real), 1)

    options = {"form": form, "singular_softmax": singular_softmax}
    aligned = [attention_alignment(maps, **options) for maps in (image_maps, text_maps)]
    reduce = jnp.mean if per_update_mean else jnp.sum
    alignment = reduce(aligned[0]) + reduce(aligned[1])
    return rank(image_scores, image_real) + rank(text_scores, text_real) + weight * alignment
