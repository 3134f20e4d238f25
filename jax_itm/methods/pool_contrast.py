"""All pairs of a pool scored once, and their softmax both ways: docs/methods/iais.md, equation (21)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_itm import losses
from jax_itm.models.uniter import Embedded, Matched
from jax_itm.types import Array, Bool, Float, Int, PRNGKeyArray, Terms

Match = Callable[[Embedded, Embedded, PRNGKeyArray], Matched]  # texts, images -> scores, with dropout
Align = Callable[[Array, Bool[Array, "p w"], Bool[Array, "p r"], bool], Float[Array, "p"]]


class Pooled(NamedTuple):
    """Sums over some pools.

    Attributes:
        softmax: of the pools' losses.
        vision, language: of the alignments of all matched pairs, by the aligned side.
        gap: of the pools' mean differences of probability between matched and other pairs.
    """

    softmax: Float[Array, "*n"]
    vision: Float[Array, "*n"]
    language: Float[Array, "*n"]
    gap: Float[Array, "*n"]


def pool_contrast(
    match: Match,
    align: Align,
    pools: tuple[Embedded, Embedded, Int[Array, "n m"]],
    rng: PRNGKeyArray,
    micro_batches: int,
) -> Terms:
    """The mean of the pools' softmax losses, and the alignments of matched pairs.

    Args:
        match: scores row k's text with row k's image.
        align: (last layer's input, words, regions, whether the vision side is aligned) -> one value a pair.
        pools: embedded texts, embedded images and image numbers; leaves have the pools on axis 0 and a
            pool's rows on axis 1.
        rng: of the dropout.
        micro_batches: parts that the pools are scored in.

    Returns:
        `pool_softmax`, `gap`, and the mean over pools of their pairs' summed alignments, `vision` and
        `language`.
    """

    def part(inputs: tuple[Embedded, Embedded, Int[Array, "n m"], Array]) -> Pooled:
        texts, images, image_id, index = inputs
        return _of_pools(match, align, (texts, images, image_id), jax.random.fold_in(rng, index))

    count = len(pools[2])
    split = lambda x: x.reshape(micro_batches, -1, *x.shape[1:])
    inputs = (*jax.tree.map(split, pools), jnp.arange(micro_batches))
    if micro_batches == 1:
        sums = part(jax.tree.map(lambda x: x[0], inputs))
    else:
        sums = jax.tree.map(jnp.sum, jax.lax.map(jax.checkpoint(part), inputs))
    names = {"softmax": "pool_softmax"}
    return {names.get(name, name): value / count for name, value in sums._asdict().items()}


def _of_pools(
    match: Match, align: Align, pools: tuple[Embedded, Embedded, Int[Array, "n m"]], rng: PRNGKeyArray
) -> Pooled:
    texts, images, image_id = pools
    count, size = image_id.shape
    # Pair (i, j) of a pool is image i with text j.
    of_images = jax.tree.map(lambda x: jnp.repeat(x, size, axis=1), images)
    of_texts = jax.tree.map(lambda x: jnp.tile(x, (1, size) + (1,) * (x.ndim - 2)), texts)
    flat = lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
    matched = match(flat(of_texts), flat(of_images), rng)
    scores = matched.score.reshape(count, size, size)
    own = jnp.arange(count * size) * size + jnp.tile(jnp.arange(size), count)  # of the matched pairs
    masks = (flat(texts).mask, flat(images).mask)
    vision, language = (jnp.sum(align(matched.last[own], *masks, side)) for side in (True, False))
    chance = jax.nn.sigmoid(jax.lax.stop_gradient(scores))
    others = (jnp.sum(chance, axis=(1, 2)) - jnp.trace(chance, axis1=1, axis2=2)) / max(size * (size - 1), 1)
    gap = jnp.sum(jnp.trace(chance, axis1=1, axis2=2) / size - others)
    return Pooled(jnp.sum(jax.vmap(losses.pool_softmax)(scores, image_id)), vision, language, gap)
