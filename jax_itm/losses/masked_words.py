"""Masked words: UNITER's pretraining task, with which a cross-encoder learns from random values.

Chen et al., "UNITER: UNiversal Image-TExt Representation Learning", ECCV 2020, section 3.2 (MLM), with the
rule of Devlin et al., 2019 (BERT), section 3.1: of the words to predict, 80 % are hidden, 10 % become a word
at random and 10 % stay as they are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_itm.types import Array, Bool, Float, Inputs, Int, PRNGKeyArray, PyTree, Terms


def hidden_words(
    rng: PRNGKeyArray, text: Inputs, share: float, vocab: int
) -> tuple[Inputs, Bool[Array, "b w"]]:
    """The captions to show, with a mask `hidden`, and which words are to be predicted.

    A `share` of the true words; never [CLS], [SEP] or padding.
    """
    keys = jax.random.split(rng, 3)
    ids, mask = text["ids"], text["mask"]
    place, count = jnp.arange(ids.shape[1])[None], jnp.sum(mask, axis=1, keepdims=True)
    chosen = (place > 0) & (place < count - 1) & (jax.random.uniform(keys[0], ids.shape) < share)
    how = jax.random.uniform(keys[1], ids.shape)
    other = jax.random.randint(keys[2], ids.shape, 0, vocab, ids.dtype)
    ids = jnp.where(chosen & (how >= 0.9), other, ids)
    return {"ids": ids, "hidden": chosen & (how < 0.8), "mask": mask}, chosen


def masked_lm(
    logits: Float[Array, "b w v"], ids: Int[Array, "b w"], chosen: Bool[Array, "b w"]
) -> Float[Array, ""]:
    """The mean cross entropy of the words to predict; 0 where there is none."""
    sums = word_sums(logits, ids, chosen)
    return sums["mlm"] / jnp.maximum(sums["count"], 1)


def word_sums(logits: Float[Array, "b w v"], ids: Int[Array, "b w"], chosen: Bool[Array, "b w"]) -> Terms:
    """Over the chosen words: `mlm`, the sum of their cross entropies, how many are `right`, the `count`."""
    own = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=2)[..., 0]
    over = lambda x: jnp.sum(jnp.where(chosen, x, 0))
    return {"mlm": over(-own), "right": over(jnp.argmax(logits, axis=2) == ids), "count": jnp.sum(chosen)}


def word_terms(
    predict: Callable[..., Array],
    text: Inputs,
    images: PyTree,
    rng: PRNGKeyArray,
    *,
    share: float,
    vocab: int,
    parts: int,
) -> Terms:
    """`mlm`, the mean cross entropy of the words to predict, and `mlm_accuracy`; row k with image k.

    `predict(shown, images, rng)` gives the logits of every word. They are the largest thing here, and are
    made for one of `parts` micro-batches at a time.
    """
    hide, drop = jax.random.split(rng)
    shown, chosen = hidden_words(hide, text, share, vocab)

    def part(given):
        shown, images, ids, chosen, index = given
        return word_sums(predict(shown, images, jax.random.fold_in(drop, index)), ids, chosen)

    split = lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)  # devices keep their rows
    given = (*jax.tree.map(split, (shown, images, text["ids"], chosen)), jnp.arange(parts))
    sums = jax.tree.map(jnp.sum, jax.lax.map(jax.checkpoint(part), given))
    count = jnp.maximum(sums["count"], 1)
    return {"mlm": sums["mlm"] / count, "mlm_accuracy": sums["right"] / count}
