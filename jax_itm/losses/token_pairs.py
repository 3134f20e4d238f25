"""Paired samples for DIAS's dimension alignment from tokens: docs/methods/dias.md, equation (13)."""

import jax
import jax.numpy as jnp

from jax_itm.arrays import NEG_INF, l2_normalise
from jax_itm.losses.inputs import check_tokens, split
from jax_itm.platforms import FULL
from jax_itm.sharded.collectives import Axis, per_row
from jax_itm.types import Array, Bool, Float


def attended_pairs(
    image_tokens: Float[Array, "b r d"],
    image_mask: Bool[Array, "b r"],
    text_tokens: Float[Array, "b w d"],
    text_mask: Bool[Array, "b w"],
    scale: float = 9.0,
    axis: Axis = "data",
) -> tuple[Float[Array, "m d"], Float[Array, "m d"], Bool[Array, "m"]]:
    """Paired samples for L_dim: each region with its mixture of the matched caption's words, and back.

        A = [ x_r ; sum_r' beta_wr' x_r' ],  B = [ sum_w' beta_rw' y_w' ; y_w ],  beta = softmax(scale cos)

    docs/methods/dias.md, equation (13). Used only inside L_dim, never in a score.

    Args:
        image_tokens: (b, r, d) regions or patches.
        image_mask: (b, r) the true ones.
        text_tokens: (b, w, d) words; row k belongs to row k of the images.
        text_mask: (b, w) the true ones.
        scale: of the attention; SCAN's 9 (Lee et al., ECCV 2018).
        axis: the mesh axis, or axes, over which the batch is split.

    Returns:
        Image-side samples (m, d), text-side samples (m, d), m = b (r + w), and which of them are real (m,):
        the arguments of `dimension_alignment`.

    Raises:
        ArgumentError: a ValueError: shapes do not match, or as for `info_nce`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_itm import losses
        >>> regions, words = jnp.ones((8, 5, 4)), jnp.ones((8, 7, 4))
        >>> mask = jnp.ones((8, 5), bool), jnp.ones((8, 7), bool)
        >>> images, texts, real = losses.attended_pairs(regions, mask[0], words, mask[1])
        >>> images.shape, texts.shape, real.shape
        ((96, 4), (96, 4), (96,))
    """
    check_tokens(None, image_tokens=image_tokens, image_mask=image_mask)
    check_tokens(len(image_tokens), text_tokens=text_tokens, text_mask=text_mask)
    arrays = {"image_tokens": image_tokens, "image_mask": image_mask, "text_tokens": text_tokens}
    axes, sides = split(axis, **arrays, text_mask=text_mask)

    def mixture(cosine: Array, mask: Array, tokens: Array) -> Array:
        weight = jax.nn.softmax(jnp.where(mask[:, None, :], scale * cosine, NEG_INF), axis=2)
        return jnp.einsum("bqk,bkd->bqd", weight, tokens, precision=FULL)

    def samples(v: Array, v_mask: Array, t: Array, t_mask: Array) -> tuple[Array, Array, Array]:
        cosine = jnp.einsum("brd,bwd->brw", l2_normalise(v), l2_normalise(t), precision=FULL)
        of_words = mixture(cosine, t_mask, t)
        of_regions = mixture(jnp.swapaxes(cosine, 1, 2), v_mask, v)
        flat = lambda *parts: jnp.concatenate(parts, axis=1).reshape(-1, v.shape[-1])
        valid = jnp.concatenate([v_mask, t_mask], axis=1).reshape(-1)
        return flat(v, of_regions), flat(of_words, t), valid

    return per_row(axes, samples, *sides)
