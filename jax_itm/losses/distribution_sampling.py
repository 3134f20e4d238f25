"""Distribution sampling: one modality's values, drawn from the distributions of the other's dimensions.

Ma, Fang, Xu, Zhang, "Aligning the True Semantics: Constrained Decoupling and Distribution Sampling for
Cross-Modal Alignment" (CDDS), AAAI 2026, arXiv 2603.05566, equations (5) to (11). No code was released:
what the paper leaves open is INFERRED and a field of `config.sampling`.

A *column* is one dimension of the tokens; its distribution is taken over all tokens of the global batch.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jax_itm.arrays import Encoded, l2_normalise, mean_pool
from jax_itm.losses import contrastive
from jax_itm.sharded.collectives import over_rows, total
from jax_itm.sharded.negatives import log_sum_exp
from jax_itm.sharded.tiles import PLAN, Plan
from jax_itm.types import Array, Bool, Config, Float, Int, NamedTuple, PRNGKeyArray, Terms

FAR = 1e4  # more than any score: it takes a padded token out of a contrast
STEEP = 0.02  # of the sigmoid through which a threshold gets its gradient
RANDOM_SHARE = 0.25  # of the tokens, for schedule="random_features"; INFERRED


class Moments(NamedTuple):
    """A column is a Gaussian (INFERRED)."""

    mean: Float[Array, "d"]
    variance: Float[Array, "d"]


class Selected(NamedTuple):
    """Equations (7) to (9) for one side: how much of each other column a column draws."""

    weights: Float[Array, "d d"]  # rows sum to 1
    kept: Bool[Array, "d d"]  # above the threshold
    empty: Bool[Array, "d"]  # rows of which nothing was: these keep their largest


def column_moments(tokens: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Moments:
    """Mean and variance of every column over the true tokens of the *global* batch."""

    def rows(tokens, mask):
        weight = mask[..., None].astype(tokens.dtype)
        count = jnp.maximum(total(jnp.sum(weight)), 1)
        mean = total(jnp.sum(tokens * weight, axis=(0, 1))) / count
        centred = (tokens - mean) * weight
        return mean, total(jnp.sum(centred * centred, axis=(0, 1))) / count

    return Moments(*over_rows(rows, tokens, mask))


def related(image: Moments, text: Moments) -> Float[Array, "d d"]:
    """`log s_ij = -KL(C^v_i, C^t_j)` of Gaussian columns: equation (5)."""
    v, t = image.variance[:, None] + 1e-6, text.variance[None, :] + 1e-6
    apart = image.mean[:, None] - text.mean[None, :]
    return -0.5 * (jnp.log(t / v) + (v + apart**2) / t - 1)


def select(
    log_s: Float[Array, "d d"], alpha: Float[Array, ""], threshold_on: str, identity: float
) -> Selected:
    """The columns that each row of S draws from: equations (6) to (9), `b_ij s_ij / sum_k b_ik s_ik`.

    `k_i = mean_j p + alpha std_j p` with `p = sigmoid(s)`. As printed, (9) compares s itself with k
    (`threshold_on="s"`), a value on p's scale, and so keeps or empties whole rows; the default compares p.
    The mask is hard; backwards it is `sigmoid((p - k) / 0.02)`, or alpha would have no gradient. INFERRED,
    and not in the paper: a share `identity` of the identity is mixed in, `I w + (1 - w) S`.
    """
    s = jnp.exp(log_s)
    p = jax.nn.sigmoid(s)
    spread = jnp.sqrt(jnp.var(p, axis=1, keepdims=True) + 1e-12)
    threshold = jnp.mean(p, axis=1, keepdims=True) + alpha * spread
    compared = p if threshold_on == "p" else s
    kept = compared > threshold
    empty = ~jnp.any(kept, axis=1)
    largest = jnp.arange(s.shape[1]) == jnp.argmax(log_s, axis=1)[:, None]
    soft = jax.nn.sigmoid((compared - threshold) / STEEP)
    hard = jnp.where(empty[:, None], largest, kept).astype(s.dtype)
    # Columns of different scales have an s that is no float any more; its share of the row is one.
    share = jnp.exp(log_s - jax.lax.stop_gradient(jnp.max(log_s, axis=1, keepdims=True)))
    drawn = (hard + soft - jax.lax.stop_gradient(soft)) * share
    weights = drawn / jnp.sum(drawn, axis=1, keepdims=True)
    return Selected(identity * jnp.eye(len(s)) + (1 - identity) * weights, kept, empty)


def select_both(
    log_s: Float[Array, "d d"], alpha: Float[Array, "2"], options: Config
) -> tuple[Selected, Selected]:
    """S_v and S_t, each with its own alpha; `options` is `config.sampling`."""
    given = options.threshold_on, options.identity
    return select(log_s, alpha[0], *given), select(log_s.T, alpha[1], *given)


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
    selected: tuple[Selected, Selected],
    scope: str = "pair",
) -> tuple[Float[Array, "b r d"], Float[Array, "b w d"]]:
    """V_x and T_x. With `scope="batch"` the ranks are those in the whole batch, blind to which text is whose:
    retrieval then stays at chance (measured); it is here to show that."""
    one = lambda x: x.reshape(1, -1, *x.shape[2:]) if scope == "batch" else x
    v, t = ordered(one(image), one(image_mask)), ordered(one(text), one(text_mask))
    v_x, t_x = sample(v, t, selected[0].weights), sample(t, v, selected[1].weights)
    return v_x.reshape(image.shape), t_x.reshape(text.shape)


def contrast(
    sampled: Float[Array, "b n d"],
    tokens: Float[Array, "b n d"],
    mask: Bool[Array, "b n"],
    image_id: Int[Array, "b"],
    level: str,
    temperature: float,
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
    scale = jnp.asarray(1 / temperature, sampled.dtype)
    if level == "pooled_batch":
        pooled = lambda x: l2_normalise(mean_pool(x, mask))
        return contrastive.info_nce(pooled(sampled), pooled(tokens), image_id, scale, plan)
    x, s = l2_normalise(sampled), l2_normalise(tokens)
    own, real = scale * jnp.sum(x * s, axis=-1), mask.astype(x.dtype)
    if level == "patch_image":
        scores = scale * jnp.einsum("bnd,bmd->bnm", x, s)
        seen = mask[:, None, :] & mask[:, :, None]
        scores = jnp.where(seen, scores, -FAR)
        rows, columns = (jax.nn.logsumexp(scores, axis=axis) for axis in (2, 1))
        each = rows + columns - 2 * own
    else:
        # A padded token's score with any other is FAR below the rest.
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        out, one = (FAR * (1 - real))[..., None], jnp.ones((*mask.shape, 1), x.dtype)
        rows = flat(jnp.concatenate([x, one, -out], axis=-1))
        columns = flat(jnp.concatenate([s, -out, one], axis=-1))
        owner = jnp.repeat(image_id, mask.shape[1])
        lse: Any = log_sum_exp(rows, columns, owner, scale, plan)
        over = [jax.nn.softplus(part.reshape(own.shape) - own) for part in lse]
        each = over[0] + over[1]
    return jnp.sum(jnp.where(mask, each, 0)) / (2 * jnp.sum(real))


def before(encoded: Encoded) -> Float[Array, "b n d"]:
    """The tokens before they were decoupled, without gradient."""
    return jax.lax.stop_gradient(encoded.tokens if encoded.origin is None else encoded.origin)


def some(key: PRNGKeyArray, mask: Bool[Array, "b n"]) -> Bool[Array, "b n"]:
    """A random share of the true tokens; all where none was drawn."""
    drawn = mask & jax.random.bernoulli(key, RANDOM_SHARE, mask.shape)
    return jnp.where(jnp.any(drawn), drawn, mask)


class Sampled(NamedTuple):
    """What distribution sampling makes of a batch."""

    image: Float[Array, "b r d"]  # V_x
    text: Float[Array, "b w d"]  # T_x
    moments: tuple[Moments, Moments]  # of the columns that S is taken from, over the global batch
    terms: Terms  # `sampling`, which is L_s, and the shares of kept columns and empty rows


def sampled(
    image: Encoded,
    text: Encoded,
    alpha: Float[Array, "2"],
    image_id: Int[Array, "b"],
    rng: PRNGKeyArray,
    options: Config,
    plan: Plan = PLAN,
) -> Sampled:
    """Sections 2 and 3 of the method on any encoders' tokens, with L_s; `options` is `config.sampling`.

    The schedules of equation (5), whose names alone are known: S from all tokens of each batch
    (`each_batch`), from a random quarter of them (`random_features`), or, without gradient, from the tokens
    before they were decoupled (`precomputed`).
    """
    known = sides = (image.tokens, image.mask), (text.tokens, text.mask)
    if options.schedule == "random_features":
        v, t = jax.random.split(rng)
        known = (image.tokens, some(v, image.mask)), (text.tokens, some(t, text.mask))
    elif options.schedule == "precomputed":
        known = (before(image), image.mask), (before(text), text.mask)
    moments = column_moments(*known[0]), column_moments(*known[1])
    both = select_both(related(*moments), alpha, options)
    v_x, t_x = sample_both(*sides[0], *sides[1], both, options.scope)
    given = image_id, options.level, options.temperature, plan
    terms = {
        "sampling": contrast(v_x, *sides[0], *given) + contrast(t_x, *sides[1], *given),
        "kept": jnp.mean(jnp.stack([jnp.mean(one.kept) for one in both])),
        "empty": jnp.mean(jnp.stack([jnp.mean(one.empty) for one in both])),
    }
    return Sampled(v_x, t_x, moments, terms)
