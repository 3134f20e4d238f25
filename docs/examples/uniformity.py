"""A loss term of one's own: uniformity on the sphere (Wang and Isola, ICML 2020), of both sides."""

import jax
import jax.numpy as jnp

from jax_itm.config.fields import Field
from jax_itm.methods import TermInputs, TermOutput, loss_term
from jax_itm.platforms import full_product


def log_mean_potential(x: jax.Array, t: float) -> jax.Array:
    """log of the mean of exp(-t |x_i - x_j|^2) over all pairs i != j of rows of length one."""
    squared = 2 - 2 * full_product(x, x.T)
    others = 1 - jnp.eye(len(x))
    return jnp.log(jnp.sum(others * jnp.exp(-t * squared)) / jnp.sum(others))


@loss_term("uniformity", {"t": Field(2.0, "sharpness", above=0)}, help="spread over the sphere")
def uniformity(inputs: TermInputs) -> TermOutput:
    """The mean of both sides' potentials; each is logged by itself."""
    images = log_mean_potential(inputs.image.embedding, inputs.options.t)
    texts = log_mean_potential(inputs.text.embedding, inputs.options.t)
    return TermOutput((images + texts) / 2, {"images": images, "texts": texts})
