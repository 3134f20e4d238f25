"""The complete objectives of DIAS, CDDS and IAIS, with the presets' weights as defaults.

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
    """DIAS's whole loss, a reconstruction: docs/methods/dias.md, equation (1).

        L = L_triplet + dimension L_dim + inter L_inter + intra L_intra

    The sum of `triplet`, `dimension_alignment` and `spatial_constraint`, with the reported weights; a term of
    weight 0 is not computed. In our runs the reported weights of the spatial terms collapsed the space on
    real data; a tenth of them did not.

    Args:
        images: (b, d) L2-normalised embeddings of the global batch; float32, bfloat16 or float16.
        texts: (b, d) the same; row k matches row k of `images`.
        key: for distance-weighted negatives; a new one each step.
        margin: of the triplet.
        negatives: of the triplet: "distance_weighted", "hardest", "sum" or "knn".
        cutoff: of distance-weighted negatives: 1.7 for Flickr30k, 1.9 for COCO.
        dimension, inter, intra: weights of L_dim, a mean over the dimensions here, L_inter and L_intra.
        image_ids, axis, plan: as for `info_nce`.

    Returns:
        The loss, a float32 scalar.

    Raises:
        ArgumentError: a ValueError: as `triplet`.

    References:
        Ma, Li, Fang, Zhang, Bridging the Modality Gap (DIAS), ACM MM 2024, arXiv 2410.16853.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax_itm import losses
        >>> images = losses.l2_normalise(jax.random.normal(jax.random.key(0), (8, 16)))
        >>> texts = losses.l2_normalise(jax.random.normal(jax.random.key(1), (8, 16)))
        >>> loss = lambda images: losses.dias(images, texts, key=jax.random.key(2))
        >>> value, gradient = jax.jit(jax.value_and_grad(loss))(images)
        >>> value.shape, gradient.shape
        ((), (8, 16))
    """
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
    """CDDS's whole loss of decoupled tokens: docs/methods/cdds.md, equations (15) and (25).

        L = sampling L_s + modality L_m + fused L_f + crossed L_x

    The sum of `distribution_sampling` on the semantic components and `decoupling`. The default options mix
    the identity into S, which is not in the paper: `options=Sampling(identity=0.0)` is the printed objective,
    with which retrieval stays near chance.

    Args:
        image: the images' decoupled tokens.
        text: the texts'; row k belongs to row k of the images.
        thresholds, weights: (2,) alpha of both selections, and (3,) w_s, w_m, w_x; learnable, from 1.
        sampling, modality, fused, crossed: alpha_s, alpha_m, alpha_f and 1 - alpha_f, the terms' weights.
        options: of distribution sampling: see `Sampling`.
        key: for the schedule "random_features"; a new one each step.
        image_ids, axis, plan: as for `info_nce`.

    Returns:
        The loss, a float32 scalar.

    Raises:
        ArgumentError: a ValueError: as `distribution_sampling` and `decoupling`.

    References:
        Ma, Fang, Xu, Zhang, Aligning the True Semantics (CDDS), AAAI 2026, arXiv 2603.05566.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax_itm import losses
        >>> tokens, mask = jax.random.normal(jax.random.key(0), (8, 5, 16)), jnp.ones((8, 5), bool)
        >>> side = losses.Components(semantic=tokens, modality=0 * tokens, origin=tokens, mask=mask)
        >>> loss = losses.cdds(side, side, thresholds=jnp.ones(2), weights=jnp.ones(3))
        >>> loss.shape
        ()
    """
    semantic = image.semantic, image.mask, text.semantic, text.mask
    how = {"image_ids": image_ids, "options": options, "key": key, "axis": axis, "plan": plan}
    sampled = sample_distributions(
        *semantic, thresholds=thresholds, origin=(image.origin, text.origin), **how
    )
    both = {"weights": weights, "sampled": (sampled.image, sampled.text), "axis": axis}
    constraints = decoupling(image, text, modality=modality, fused=fused, crossed=crossed, **both)
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
    """IAIS's whole loss of one pool of anchors: docs/methods/iais.md, equation (14).

        L = mean rank(images) + mean rank(texts) + weight (sum L_vision + sum L_language)

    Image anchors align the vision side, text anchors the language side. As released, the alignment is a
    *sum* over the anchors.

    Args:
        image_scores, text_scores: (a, 1 + k) logits of each anchor: the matched pair's, its negatives'.
        image_maps, text_maps: attention maps of the anchors' matched pairs, the images' from the regions.
        weight: lambda of the alignment, by its schedule: equation (13).
        margin: of the ranking loss.
        form, singular_softmax: of the alignment: see `attention_alignment`.
        per_update_mean: the alignment is a mean over the anchors.
        image_real, text_real: (a, k) which of the negatives are real; None: all.

    Returns:
        The loss, a scalar.

    Raises:
        ArgumentError: a ValueError: scores without negatives, or an unknown form.

    References:
        Ren et al., Learning Relation Alignment for Calibrated Cross-modal Retrieval (IAIS), ACL 2021.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> uniform, true = jnp.full((4, 2, 2), 0.5), jnp.ones((4, 2), bool)
        >>> maps = losses.AttentionMaps(uniform, uniform, uniform, uniform, true, true)
        >>> scores = jnp.zeros((4, 3))
        >>> print(f"{losses.iais(scores, scores, maps, maps, weight=1.0):.1f}")  # two margins of 0.2
        0.4
    """
    for name, scores in (("image_scores", image_scores), ("text_scores", text_scores)):
        if scores.ndim != 2 or scores.shape[1] < 2:
            raise ArgumentError(
                f"{name} has shape {scores.shape}: must be (anchors, 1 + negatives), the matched pair's first"
            )

    options = {"form": form, "singular_softmax": singular_softmax}
    aligned = [attention_alignment(maps, **options) for maps in (image_maps, text_maps)]
    reduce = jnp.mean if per_update_mean else jnp.sum
    alignment = reduce(aligned[0]) + reduce(aligned[1])
    ranks = _mean_rank(image_scores, image_real, margin) + _mean_rank(text_scores, text_real, margin)
    return ranks + weight * alignment


def _mean_rank(
    scores: Float[Array, "a k"], real: Bool[Array, "a n"] | None, margin: float
) -> Float[Array, ""]:
    """The mean ranking loss of the real negatives."""
    each = rank_loss(scores[:, 0], scores[:, 1:], margin)
    real = jnp.ones(each.shape, bool) if real is None else real
    return jnp.sum(jnp.where(real, each, 0)) / jnp.maximum(jnp.sum(real), 1)
