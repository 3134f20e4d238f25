"""The plain contrastive baselines: VSE++, InfoNCE and the sigmoid loss."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jax_itm import losses
from jax_itm.methods.base import DualEncoder, register
from jax_itm.types import Array, Terms


def vsepp_defaults() -> dict[str, Any]:
    """Faghri et al., 2018: hardest negatives after a first epoch on all of them."""
    return {"weights": {"triplet": 1.0, "sampling": 0.0}, "margin": 0.2, "sum_for": "1 epochs"}


def info_nce_defaults() -> dict[str, Any]:
    """A learnt inverse temperature that starts at 1 / 0.07 and is clipped at 100, as CLIP's."""
    return {"weights": {"info_nce": 1.0, "sampling": 0.0}, "temperature": 0.07, "max_scale": 100.0}


def sigmoid_defaults() -> dict[str, Any]:
    """SigLIP's start: inverse temperature 10, bias -10."""
    return {
        "weights": {"sigmoid": 1.0, "sampling": 0.0},
        "temperature": 0.1,
        "bias": -10.0,
        "max_scale": 100.0,
    }


@register("vsepp", vsepp_defaults)
class VsePlusPlus(DualEncoder):
    """The triplet loss, over all negatives for `sum_for`, then over the hardest."""

    def terms(self, params, image, text, batch, rng, step) -> Terms:
        """`triplet`, summed over anchors and directions."""
        pairs = (image.embedding, text.embedding, batch["image_id"], self.options.margin, self.plan)
        warm, hard = (lambda: losses.triplet_sum(*pairs)), (lambda: losses.triplet_hardest(*pairs))
        return {"triplet": jax.lax.cond(step < self.loss_steps(self.options.sum_for), warm, hard)}


@register("info_nce", info_nce_defaults)
class InfoNce(DualEncoder):
    """InfoNCE with a learnt, clipped temperature."""

    def loss_params(self) -> dict[str, Array]:
        """`log_scale`, the logarithm of the inverse temperature."""
        return {"log_scale": jnp.asarray(-math.log(self.options.temperature), jnp.float32)}

    def terms(self, params, image, text, batch, rng, step) -> Terms:
        """`info_nce`, a mean over anchors and directions."""
        scale = jnp.minimum(jnp.exp(params["log_scale"]), self.options.max_scale)
        loss = losses.info_nce(image.embedding, text.embedding, batch["image_id"], scale, self.plan)
        return {"info_nce": loss, "scale": scale}


@register("sigmoid", sigmoid_defaults)
class Sigmoid(DualEncoder):
    """SigLIP's loss with a learnt temperature and bias."""

    def loss_params(self) -> dict[str, Array]:
        """`log_scale` and `bias`."""
        scale = -math.log(self.options.temperature)
        return {
            "log_scale": jnp.asarray(scale, jnp.float32),
            "bias": jnp.asarray(self.options.bias, jnp.float32),
        }

    def terms(self, params, image, text, batch, rng, step) -> Terms:
        """`sigmoid`, summed over a row's pairs, a mean over rows."""
        scale = jnp.minimum(jnp.exp(params["log_scale"]), self.options.max_scale)
        pairs = image.embedding, text.embedding, batch["image_id"]
        loss = losses.sigmoid(*pairs, scale, params["bias"], self.plan)
        return {"sigmoid": loss, "scale": scale, "bias": params["bias"]}
