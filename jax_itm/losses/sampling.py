"""Distribution sampling: one modality's values, sampled from the other's distributions.

Ma, Fang, Xu, Zhang, "Aligning the True Semantics: Constrained Decoupling and Distribution Sampling for
Cross-Modal Alignment" (CDDS), AAAI 2026, arXiv 2603.05566. Equations: docs/methods/cdds.md. No code was
released: what the paper leaves open is INFERRED and a field of `Sampling`.

A *column* is one dimension of the tokens; its distribution is taken over all tokens of the global batch.
`columns.py` has the columns and how they are related, `rank_map.py` equation (10).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_itm.arrays import l2_normalise, mean_pool
from jax_itm.errors import ArgumentError
from jax_itm.losses import contrastive
from jax_itm.losses.columns import Moments, column_moments, relatedness, select_both
from jax_itm.losses.inputs import check_tokens, checked_ids, split
from jax_itm.losses.rank_map import sample_both
from jax_itm.platforms import FULL
from jax_itm.sharded.collectives import ONE_DEVICE, Axis, BatchAxes, per_row, split_rows
from jax_itm.sharded.log_sum_exp import log_sum_exp
from jax_itm.sharded.tiles import PLAN, Matrix, Plan
from jax_itm.types import Array, Bool, Float, Int, PRNGKeyArray, Terms

PADDED = 1e4  # more than any score: it takes a padded token out of a contrast
RANDOM_SHARE = 0.25  # of the tokens, for schedule="random_features"; INFERRED


class Sampling(NamedTuple):
    """The options of distribution sampling.

    Attributes:
        schedule: from which tokens the related semantics S are taken: "each_batch" (all of the batch),
            "random_features" (a random quarter of them), "precomputed" (those before they were decoupled,
            without gradient).
        threshold_on: "p", or "s" as equation (8) is printed.
        identity: the share of the identity in S, equation (20); 0 is the paper.
        scope: "pair" samples within the matched pair; "batch" in the whole batch, blind to whose text it is.
        level: what L_s contrasts: "pooled_batch", "patch_batch" or "patch_image".
        temperature: of L_s.
    """

    schedule: str = "each_batch"
    threshold_on: str = "p"
    identity: float = 0.5
    scope: str = "pair"
    level: str = "pooled_batch"
    temperature: float = 0.07


CHOICES = {
    "schedule": ("each_batch", "random_features", "precomputed"),
    "threshold_on": ("p", "s"),
    "scope": ("pair", "batch"),
    "level": ("pooled_batch", "patch_batch", "patch_image"),
}


class Sampled(NamedTuple):
    """What distribution sampling makes of a batch."""

    image: Float[Array, "b r d"]  # V_x
    text: Float[Array, "b w d"]  # T_x
    moments: tuple[Moments, Moments]  # of the columns that S is taken from, over the global batch
    terms: Terms  # `sampling`, which is L_s, and the shares of kept columns and empty rows


def distribution_sampling(
    image_tokens: Float[Array, "b r d"],
    image_mask: Bool[Array, "b r"],
    text_tokens: Float[Array, "b w d"],
    text_mask: Bool[Array, "b w"],
    *,
    thresholds: Float[Array, "2"],
    image_ids: Int[Array, "b"] | None = None,
    options: Sampling = Sampling(),  # noqa: B008
    key: PRNGKeyArray | None = None,
    origin: tuple[Float[Array, "b r d"], Float[Array, "b w d"]] | None = None,
    axis: Axis = "data",
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """CDDS's distribution sampling on any encoders' tokens: docs/methods/cdds.md, (5) to (11), (18) to (22).

    One modality's values are replaced by samples from the distributions of the other's *columns* (dimensions,
    over all true tokens of the global batch), and what results is contrasted with the tokens:

        s_ij = exp(-KL(C^v_i, C^t_j))            relatedness of columns, taken as Gaussians
        S_v = rows of s above their threshold, normalised;  S_v <- identity I + (1 - identity) S_v
        V_x = the values of T S_v^T at the ranks that V's tokens have in their columns
        L_s = InfoNCE(V_x, V) + InfoNCE(T_x, T)

    No code was released: `options` choose where the equations leave a gap; `identity` > 0, the default, is
    not in the paper. Tokens must have one length, or their columns cannot be related: see `equal_length`.

    Args:
        image_tokens, image_mask: (b, r, d) regions or patches, and (b, r) which are true.
        text_tokens, text_mask: (b, w, d) and (b, w), words; row k belongs to row k of the images.
        thresholds: (2,) alpha of the images' and of the texts' selection, learnable; 1 is a good start.
        image_ids: (b,) equal numbers mark captions of one image, which are never negatives of each other.
            None: all rows are of different images.
        options: see `Sampling`.
        key: for the schedule "random_features"; a new one each step.
        origin: for "precomputed", both modalities' tokens before they were decoupled; None: the tokens.
        axis: the mesh axis, or axes, over which the batch is split.
        plan: how the matrix of scores is traversed; it changes nothing but time, memory and rounding.

    Returns:
        L_s, a float32 scalar. Ranks carry no gradient; tokens, S and the thresholds do.

    Raises:
        ArgumentError: a ValueError: shapes do not match, an option is unknown, or as for `info_nce`.

    References:
        Ma, Fang, Xu, Zhang, Aligning the True Semantics (CDDS), AAAI 2026, arXiv 2603.05566.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax_itm import losses
        >>> regions, words = jax.random.normal(jax.random.key(0), (2, 8, 5, 16))
        >>> masks = jnp.ones((2, 8, 5), bool)
        >>> losses.distribution_sampling(regions, masks[0], words, masks[1], thresholds=jnp.ones(2)).shape
        ()
    """
    tokens = image_tokens, image_mask, text_tokens, text_mask
    more = {"image_ids": image_ids, "options": options, "key": key, "origin": origin}
    sampled = sample_distributions(*tokens, thresholds=thresholds, **more, axis=axis, plan=plan)
    return sampled.terms["sampling"]


def sample_distributions(
    image_tokens: Float[Array, "b r d"],
    image_mask: Bool[Array, "b r"],
    text_tokens: Float[Array, "b w d"],
    text_mask: Bool[Array, "b w"],
    *,
    thresholds: Float[Array, "2"],
    image_ids: Int[Array, "b"] | None = None,
    options: Sampling = Sampling(),  # noqa: B008
    key: PRNGKeyArray | None = None,
    origin: tuple[Float[Array, "b r d"], Float[Array, "b w d"]] | None = None,
    axis: Axis = "data",
    plan: Plan = PLAN,
) -> Sampled:
    """What `distribution_sampling` makes of a batch; the arguments are the same.

    Returns:
        `Sampled`: V_x and T_x, the columns' moments, and the terms `sampling` (L_s), `kept` (the share of the
        columns above their threshold) and `empty` (the share of the rows of S of which none was).

    Raises:
        ArgumentError: as `distribution_sampling`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax_itm import losses
        >>> regions, words = jax.random.normal(jax.random.key(0), (2, 8, 5, 16))
        >>> mask = jnp.ones((8, 5), bool)
        >>> sampled = losses.sample_distributions(regions, mask, words, mask, thresholds=jnp.ones(2))
        >>> sampled.image.shape, sorted(sampled.terms)
        ((8, 5, 16), ['empty', 'kept', 'sampling'])
    """
    for name, choices in CHOICES.items():
        if getattr(options, name) not in choices:
            raise ArgumentError(
                f"options.{name}={getattr(options, name)!r}: must be one of {', '.join(choices)}"
            )
    check_tokens(None, image_tokens=image_tokens, image_mask=image_mask)
    check_tokens(len(image_tokens), text_tokens=text_tokens, text_mask=text_mask)
    ids = checked_ids(image_ids, len(image_tokens))
    arrays = {"image_tokens": image_tokens, "image_mask": image_mask, "text_tokens": text_tokens}
    axes, (*sides, ids) = split(axis, **arrays, text_mask=text_mask, image_ids=ids)
    v, v_mask, t, t_mask = sides
    moments = _moments_of_s(axes, sides, options, key, origin)
    both = select_both(relatedness(*moments), thresholds, options.threshold_on, options.identity)
    v_x, t_x = sample_both(v, v_mask, t, t_mask, both, scope=options.scope, axes=axes)
    images = contrast(v_x, v, v_mask, ids, options=options, axes=axes, plan=plan)
    texts = contrast(t_x, t, t_mask, ids, options=options, axes=axes, plan=plan)
    terms = {
        "sampling": images + texts,
        "kept": jnp.mean(jnp.stack([jnp.mean(one.kept) for one in both])),
        "empty": jnp.mean(jnp.stack([jnp.mean(one.empty) for one in both])),
    }
    return Sampled(v_x, t_x, moments, terms)


def _moments_of_s(
    axes: BatchAxes, sides: Any, options: Sampling, key: PRNGKeyArray | None, origin: Any
) -> tuple[Moments, Moments]:
    """Of the tokens that S is taken from, by the schedule."""
    v, v_mask, t, t_mask = sides
    if options.schedule == "random_features":
        if key is None:
            raise ArgumentError(
                "key: the schedule 'random_features' draws tokens, and needs a jax.random.key"
            )
        of_image, of_text = jax.random.split(key)
        v_mask = random_tokens(axes, of_image, v_mask)
        t_mask = random_tokens(axes, of_text, t_mask)
    elif options.schedule == "precomputed":
        v, t = jax.lax.stop_gradient((v, t) if origin is None else split_rows(axes, origin))
    return column_moments(v, v_mask, axis=axes.names), column_moments(t, t_mask, axis=axes.names)


def random_tokens(axes: BatchAxes, key: PRNGKeyArray, mask: Bool[Array, "b n"]) -> Bool[Array, "b n"]:
    """A random share of the true tokens; all where none was drawn."""
    kept = mask & split_rows(axes, jax.random.bernoulli(key, RANDOM_SHARE, mask.shape))
    return jnp.where(jnp.any(kept), kept, mask)


def contrast(
    sampled: Float[Array, "b n d"],
    tokens: Float[Array, "b n d"],
    mask: Bool[Array, "b n"],
    image_ids: Int[Array, "b"],
    *,
    options: Sampling = Sampling(),  # noqa: B008
    axes: BatchAxes = ONE_DEVICE,
    plan: Plan = PLAN,
) -> Float[Array, ""]:
    """One modality's part of L_s, equation (11): sampled components against the semantic ones.

        pooled_batch    means over the tokens, InfoNCE over the global batch (default)
        patch_batch     every token against those of all other images of the global batch
        patch_image     every token against those of its own image: the printed negatives

    As printed, (11) takes a cosine where a distance is meant, has the logarithm outside the sum and no
    temperature; its negatives, inside one image, are told apart by the ranks that a sampled token keeps,
    without any semantics. All levels are InfoNCE in both directions here, at `temperature` (INFERRED).
    """
    scale = jnp.asarray(1 / options.temperature, sampled.dtype)
    if options.level == "pooled_batch":
        pooled = lambda x: l2_normalise(mean_pool(x, mask))
        shared = {"scale": scale, "image_ids": image_ids, "axis": axes.names, "plan": plan}
        return contrastive.info_nce(pooled(sampled), pooled(tokens), **shared)
    x = l2_normalise(sampled)
    s = l2_normalise(tokens)
    own = scale * jnp.sum(x * s, axis=-1)
    real = mask.astype(x.dtype)
    if options.level == "patch_image":
        scores = scale * jnp.einsum("bnd,bmd->bnm", x, s, precision=FULL)
        seen = mask[:, None, :] & mask[:, :, None]
        scores = jnp.where(seen, scores, -PADDED)
        rows, columns = (jax.nn.logsumexp(scores, axis=axis) for axis in (2, 1))
        each = rows + columns - 2 * own
    else:
        over = _against_other_images(x, s, mask, image_ids, scale, Matrix(mask.size, axes, plan))
        each = sum(jax.nn.softplus(part - own) for part in over)
    return jnp.sum(jnp.where(mask, each, 0)) / (2 * jnp.sum(real))


def _against_other_images(
    x: Float[Array, "b n d"],
    s: Float[Array, "b n d"],
    mask: Bool[Array, "b n"],
    image_ids: Int[Array, "b"],
    scale: Array,
    matrix: Matrix,
) -> tuple[Array, Array]:
    """The log-sum-exp of every token's scores with the tokens of all other images, both ways, each (b, n)."""
    tokens = mask.shape[1]

    def flat(x: Array, s: Array, mask: Array, image_ids: Array) -> tuple[Array, Array, Array]:
        # A padded token's score with any other is PADDED below the rest.
        out = (PADDED * (1 - mask.astype(x.dtype)))[..., None]
        one = jnp.ones_like(out)
        join = lambda *parts: jnp.concatenate(parts, axis=-1).reshape(mask.size, -1)
        return join(x, one, -out), join(s, -out, one), jnp.repeat(image_ids, tokens)

    v, t, owner = per_row(matrix.axes, flat, x, s, mask, image_ids)
    lse = log_sum_exp(matrix, v, t, owner, scale)
    unflat = lambda *parts: tuple(part.reshape(-1, tokens) for part in parts)
    return per_row(matrix.axes, unflat, *lse)
