"""The rank map of distribution sampling: docs/methods/cdds.md, equations (10) and (21)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_itm.losses.columns import ColumnSelection
from jax_itm.platforms import full_product
from jax_itm.sharded.collectives import ONE_DEVICE, BatchAxes, per_row, split_rows
from jax_itm.types import Array, Bool, Float, Int


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
    g = full_product(other.values, weights.T)
    r = own.count[:, None]
    w = other.count[:, None]
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
        image = ordered(v, v_mask)
        text = ordered(t, t_mask)
        return sample(image, text, weights[0]), sample(text, image, weights[1])

    sides = image, image_mask, text, text_mask
    if scope == "pair":
        return per_row(axes, pair, *sides, replicated=weights)
    everything = split_rows(ONE_DEVICE, sides)
    v_x, t_x = pair(*(x.reshape(1, -1, *x.shape[2:]) for x in everything), *weights)
    return split_rows(axes, (v_x.reshape(image.shape), t_x.reshape(text.shape)))
