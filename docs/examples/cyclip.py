"""A method of one's own: CyCLIP (Goel et al., NeurIPS 2022), InfoNCE with cyclic consistency."""

import jax.numpy as jnp

from jax_itm.config.presets import DUAL, PRESETS, Preset
from jax_itm.methods import TermInputs, TermOutput, loss_term
from jax_itm.platforms import full_product


@loss_term("cyclic", help="CyCLIP: the same scores when the sides of two pairs change places")
def cyclic(inputs: TermInputs) -> TermOutput:
    """1/b sum_ij (v_i.v_j - t_i.t_j)^2 + 1/b sum_ij (v_i.t_j - v_j.t_i)^2.

    Both sums follow from products of size (d, d), so that no (b, b) matrix is held, and each device
    multiplies its own rows alone.
    """
    v = inputs.image.embedding
    t = inputs.text.embedding
    vv, tt, tv = full_product(v.T, v), full_product(t.T, t), full_product(t.T, v)
    in_modal = jnp.sum(vv * vv) + jnp.sum(tt * tt) - 2 * jnp.sum(tv * tv)
    cross_modal = 2 * jnp.sum(vv * tt) - 2 * jnp.sum(tv * tv.T)
    terms = {"in_modal": in_modal / len(v), "cross_modal": cross_modal / len(v)}
    return TermOutput(terms["in_modal"] + terms["cross_modal"], terms)


PRESETS["cyclip"] = Preset(
    DUAL,
    {"losses.info_nce.weight": 1.0, "losses.cyclic.weight": 0.25},
    "Goel et al., NeurIPS 2022: both weights 0.25",
)
