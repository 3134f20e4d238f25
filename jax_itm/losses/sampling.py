"""Distribution sampling: one modality's values, drawn from the distributions of the other's dimensions.

Ma, Fang, Xu, Zhang, "Aligning the True Semantics: Constrained Decoupling and Distribution Sampling for
Cross-Modal Alignment" (CDDS), AAAI 2026, arXiv 2603.05566. Equations: docs/methods/cdds.md. No code was
released: what the paper leaves open is INFERRED and a field of `Sampling`.

A *column* is one dimension of the tokens; its distribution is taken over all tokens of the global batch.
`columns.py` has the columns and how they are related; here they are sampled and contrasted.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jax_itm.arrays import l2_normalise, mean_pool
from jax_itm.errors import ArgumentError
from jax_itm.losses import contrastive
from jax_itm.losses.columns import ColumnSelection, Moments, column_moments, relatedness, select_both
from jax_itm.losses.inputs import check_tokens, split
from jax_itm.sharded.collectives import ONE_DEVICE, Axis, BatchAxes, per_row, split_rows
from jax_itm.sharded.negatives import log_sum_exp
from jax_itm.sharded.tiles import PLAN, Matrix, Plan
from jax_itm.types import Array, Bool, Float, Int, NamedTuple, PRNGKeyArray, Terms

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
    """CDDS's L_s: see `sample_distributions`."""
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
    """Equations (5) to (11) on any encoders' tokens, with L_s."""
    for name, choices in CHOICES.items():
        if getattr(options, name) not in choices:
            raise ArgumentError(
                f"options.{name}={getattr(options, name)!r}: must be one of {', '.join(choices)}"
            )
    check_tokens(None, image_tokens=image_tokens, image_mask=image_mask)
    check_tokens(len(image_tokens), text_tokens=text_tokens, text_mask=text_mask)
    ids = jnp.arange(len(image_tokens), dtype=jnp.int32) if image_ids is None else image_ids
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
        v_mask, t_mask = random_tokens(axes, of_image, v_mask), random_tokens(axes, of_text, t_mask)
    elif options.schedule == "precomputed":
        v, t = jax.lax.stop_gradient((v, t) if origin is None else split_rows(axes, origin))
    return column_moments(v, v_mask, axis=axes.names), column_moments(t, t_mask, axis=axes.names)


def random_tokens(axes: BatchAxes, key: PRNGKeyArray, mask: Bool[Array, "b n"]) -> Bool[Array, "b n"]:
    """A random share of the true tokens; all where none was drawn."""
    drawn = mask & split_rows(axes, jax.random.bernoulli(key, RANDOM_SHARE, mask.shape))
    return jnp.where(jnp.any(drawn), drawn, mask)


class Ordered(NamedTuple):
    """One modality's tokens, sorted column by column."""

    values: Float[Array, "b n d"]  # ascending, the true ones first; zeros behind them
    rank: Int[Array, "b n d"]  # the place of each token in its column
    count: Int[Array, "b"]  # of true tokens


def ordered(tokens: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Ordered:
    """Sorts every column: two sorts, of which the second only inverts an order. Ranks have no gradient."""
    real = mask[..., None]
    place = jnp.argsort(jax.lax.stop_gradient(jnp.where(real, tokens, jnp.inf)), axis=1)
    values = jnp.take_along_axis(jnp.where(real, tokens, 0), place, axis=1)
    return Ordered(values, jnp.argsort(place, axis=1), jnp.sum(mask, axis=1))


def sample(own: Ordered, other: Ordered, weights: Float[Array, "d d"]) -> Float[Array, "b n d"]:
    """Each token's values replaced by those of the other side at the same exceedance probability.

    Equation (10) in closed form, since all columns j share the rank:

        G = sort(T) S^T;   u = (rank(V) + 0.5) / r * w - 0.5;   V_x = lerp(G[floor u], G[ceil u])

    Within each row of the batch, that is the matched pair. What stands at padded tokens means nothing.
    """
    g = other.values @ weights.T
    r, w = own.count[:, None], other.count[:, None]
    u = (jnp.arange(own.values.shape[1]) + 0.5) / jnp.maximum(r, 1) * w - 0.5
    u = jnp.clip(u, 0, jnp.maximum(w - 1, 0))
    low = jnp.floor(u).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.maximum(w - 1, 0))
    at = lambda k: jnp.take_along_axis(g, k[..., None], axis=1)
    share = (u - low)[..., None]
    in_order = (1 - share) * at(low) + share * at(high)
    return jnp.take_along_axis(in_order, own.rank, axis=1)


def sample_both(
    image: Float[Array, "b r d"],
    image_mask: Bool[Array, "b r"],
    text: Float[Array, "b w d"],
    text_mask: Bool[Array, "b w"],
    selected: tuple[ColumnSelection, ColumnSelection],
    *,
    scope: str = "pair",
    axes: BatchAxes = ONE_DEVICE,
) -> tuple[Float[Array, "b r d"], Float[Array, "b w d"]]:
    """V_x and T_x. With `scope="batch"` the ranks are those in the whole batch, blind to which text is whose:
    retrieval then stays at chance (measured); it is here to show that."""
    weights = selected[0].weights, selected[1].weights

    def pair(v: Array, v_mask: Array, t: Array, t_mask: Array, *weights: Array) -> tuple[Array, Array]:
        image, text = ordered(v, v_mask), ordered(t, t_mask)
        return sample(image, text, weights[0]), sample(text, image, weights[1])

    sides = image, image_mask, text, text_mask
    if scope == "pair":
        return per_row(axes, pair, *sides, replicated=weights)
    everything = split_rows(ONE_DEVICE, sides)
    v_x, t_x = pair(*(x.reshape(1, -1, *x.shape[2:]) for x in everything), *weights)
    return split_rows(axes, (v_x.reshape(image.shape), t_x.reshape(text.shape)))


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
        given = {"scale": scale, "image_ids": image_ids, "axis": axes.names, "plan": plan}
        return contrastive.info_nce(pooled(sampled), pooled(tokens), **given)
    x, s = l2_normalise(sampled), l2_normalise(tokens)
    own, real = scale * jnp.sum(x * s, axis=-1), mask.astype(x.dtype)
    if options.level == "patch_image":
        scores = scale * jnp.einsum("bnd,bmd->bnm", x, s)
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
    lse: Any = log_sum_exp(matrix, v, t, owner, scale)
    unflat = lambda *parts: tuple(part.reshape(-1, tokens) for part in parts)
    return per_row(matrix.axes, unflat, *lse)
