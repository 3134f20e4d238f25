"""Masked words, to train a cross-encoder without pretrained weights: docs/methods/iais.md, equation (16).

UNITER's pretraining task (Chen et al., ECCV 2020, section 3.2) with the rule of BERT (Devlin et al., NAACL
2019, section 3.1): of the words to predict, 80 % are hidden, 10 % become a random word and 10 % stay.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_itm.types import Array, Bool, Float, Inputs, Int, PRNGKeyArray, PyTree, Terms


def masked_lm(
    logits: Float[Array, "b w v"], ids: Int[Array, "b w"], chosen: Bool[Array, "b w"]
) -> Float[Array, ""]:
    """The masked language model's loss: docs/methods/iais.md, equation (16).

        L = mean over the chosen words of -log softmax(logits)[word]

    Args:
        logits: (b, w, v) scores of the v ids of the vocabulary for every word; float32.
        ids: (b, w) the words as they were.
        chosen: (b, w) which of them are to be predicted.

    Returns:
        The loss, a scalar; 0 where no word is chosen.

    References:
        Devlin et al., BERT, NAACL 2019, section 3.1; Chen et al., UNITER, ECCV 2020, section 3.2.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> chosen = jnp.array([[True, False]])
        >>> loss = losses.masked_lm(jnp.zeros((1, 2, 10)), jnp.array([[3, 5]]), chosen)
        >>> print(f"{loss:.4f}")  # log 10
        2.3026
    """
    sums = masked_lm_sums(logits, ids, chosen)
    return sums["loss"] / jnp.maximum(sums["count"], 1)


def masked_lm_sums(
    logits: Float[Array, "b w v"], ids: Int[Array, "b w"], chosen: Bool[Array, "b w"]
) -> Terms:
    """Over the chosen words: the `loss` (a sum), how many are `right`, and their `count`."""
    own = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=2)[..., 0]
    over = lambda x: jnp.sum(jnp.where(chosen, x, 0))
    return {"loss": over(-own), "right": over(jnp.argmax(logits, axis=2) == ids), "count": jnp.sum(chosen)}


def hide_words(
    key: PRNGKeyArray, text: Inputs, share: float, vocabulary: int
) -> tuple[Inputs, Bool[Array, "b w"]]:
    """The captions to show, with a mask `hidden`, and which words are to be predicted.

    A `share` of the true words; never [CLS], [SEP] or padding.
    """
    keys = jax.random.split(key, 3)
    ids = text["ids"]
    mask = text["mask"]
    position = jnp.arange(ids.shape[1])[None]
    last = jnp.sum(mask, axis=1, keepdims=True) - 1
    chosen = (position > 0) & (position < last) & (jax.random.uniform(keys[0], ids.shape) < share)
    fate = jax.random.uniform(keys[1], ids.shape)
    other = jax.random.randint(keys[2], ids.shape, 0, vocabulary, ids.dtype)
    ids = jnp.where(chosen & (fate >= 0.9), other, ids)
    return {"ids": ids, "hidden": chosen & (fate < 0.8), "mask": mask}, chosen


def masked_lm_terms(
    predict: Callable[[Inputs, PyTree, PRNGKeyArray], Float[Array, "k w v"]],
    text: Inputs,
    images: PyTree,
    key: PRNGKeyArray,
    *,
    share: float,
    vocabulary: int,
    micro_batches: int,
) -> Terms:
    """`masked_lm` of captions with their images, row k with row k, and `masked_lm_accuracy`.

    `predict(shown, images, key)` gives the logits of every word, the largest thing here: they are formed
    for one of `micro_batches` at a time.
    """
    hide_key, dropout_key = jax.random.split(key)
    shown, chosen = hide_words(hide_key, text, share, vocabulary)

    def of_micro_batch(inputs: tuple[Inputs, PyTree, Array, Array, Array]) -> Terms:
        shown, images, ids, chosen, index = inputs
        logits = predict(shown, images, jax.random.fold_in(dropout_key, index))
        return masked_lm_sums(logits, ids, chosen)

    # Every device keeps its own rows.
    split = lambda x: jnp.moveaxis(x.reshape(-1, micro_batches, *x.shape[1:]), 1, 0)
    inputs = (*jax.tree.map(split, (shown, images, text["ids"], chosen)), jnp.arange(micro_batches))
    sums = jax.tree.map(jnp.sum, jax.lax.map(jax.checkpoint(of_micro_batch), inputs))
    count = jnp.maximum(sums["count"], 1)
    return {"masked_lm": sums["loss"] / count, "masked_lm_accuracy": sums["right"] / count}
