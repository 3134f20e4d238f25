"""A loss term of one's own: uniformity on the sphere (Wang and Isola, ICML 2020), of both sides."""

import jax
import jax.numpy as jnp

from jax_itm.config.fields import Field
from jax_itm.methods import TermInputs, TermOutput, loss_term
from jax_itm.platforms import full_product


def different(inputs: TermInputs) -> jax.Array:
    """(b, b): 1 where two rows are of different images."""
    ids = jnp.arange(len(inputs.image.embedding)) if inputs.image_ids is None else inputs.image_ids
    return (ids[:, None] != ids[None, :]).astype(jnp.float32)


def log_mean_potential(x: jax.Array, pairs: jax.Array, t: float) -> jax.Array:
    """log of the mean of exp(-t |x_i - x_j|^2) over `pairs` of rows of length one."""
    squared = 2 - 2 * full_product(x, x.T)
    return jnp.log(jnp.sum(pairs * jnp.exp(-t * squared)) / jnp.sum(pairs))


@loss_term("uniformity", {"t": Field(2.0, "sharpness", above=0)}, help="spread over the sphere")
def uniformity(inputs: TermInputs) -> TermOutput:
    """The mean of both sides' potentials; each is logged by itself."""
    pairs, t = different(inputs), inputs.options.t
    images = log_mean_potential(inputs.image.embedding, pairs, t)
    texts = log_mean_potential(inputs.text.embedding, pairs, t)
    return TermOutput((images + texts) / 2, {"images": images, "texts": texts})
