"""DIAS: dimension information alignment and the sparse spatial constraint.

Ma, Li, Fang, Zhang, "Bridging the Modality Gap: Dimension Information Alignment and Sparse Spatial
Constraint for Image-Text Matching", ACM MM 2024, arXiv 2410.16853.

This is a *reconstruction*: neither the paper's body nor code could be had. From the abstract: the
correlation of corresponding dimensions, spatial relations of unmatched pairs between and inside the
modalities, and a sparse selection of the strongly correlated ones. The weights, the ratio form of
L_dim, the form of L_inter and L_intra and the threshold are second-hand reports; the rest is ours.

    L = L_triplet + 10 L_dim + 0.05 L_inter + 0.1 L_intra
"""

from typing import Any

import jax
import jax.numpy as jnp

from jax_itm import losses
from jax_itm.losses.dimension import attended_pairs, dimension_correlation, dimension_loss
from jax_itm.losses.spatial import spatial_losses
from jax_itm.methods.base import DualEncoder, register
from jax_itm.types import Array, Float, Terms


def dias_defaults() -> dict[str, Any]:
    """The reported weights; every inferred choice with its alternatives."""
    return {
        "weights": {"triplet": 1.0, "dim": 10.0, "inter": 0.05, "intra": 0.1, "sampling": 0.0},
        "margin": 0.2,
        "negatives": "distance_weighted",  # | hardest | sum
        "cutoff": 1.7,  # of distance-weighted negatives: 1.7 Flickr30k, 1.9 COCO
        "sum_for": "0 epochs",  # all negatives first; hardest from the start collapses
        "dim_form": "ratio",  # | infonce | barlow | diagonal
        "dim_phi": "relu",  # | abs | square | exp
        "dim_samples": "global",  # | attended
        "dim_reduce": "mean",  # | sum: over the dimensions; a sum times 10 drowns the triplet
        "select_on": "proximity",  # | distance | discrepancy_large | none
        "mask": "hard",  # | soft
        "alpha": 1.0,
        "learn_alpha": False,  # needs the soft mask
    }


@register("dias", dias_defaults)
class Dias(DualEncoder):
    """The triplet loss with L_dim, L_inter and L_intra, weighted by `method.weights`."""

    def loss_params(self) -> dict[str, Array]:
        """`alpha` of the inter and the intra selection, where it is learnt."""
        options = self.options
        return {"alpha": jnp.full((2,), options.alpha)} if options.learn_alpha else {}

    def weights(self) -> dict[str, float]:
        """`inter` and `intra` are weighted inside `spatial`, which alone carries their gradient."""
        own = self.options.weights
        spatial = float(bool(own.inter or own.intra))
        return {
            "triplet": own.triplet,
            "dim": own.dim,
            "spatial": spatial,
            "sampling": own.sampling,
        }

    def triplet(self, image, text, batch, rng, step) -> Float[Array, ""]:
        """The triplet term, by `negatives` after `sum_for`."""
        options = self.options
        given = (image.embedding, text.embedding, batch["image_id"], options.margin)
        all_negatives = lambda: losses.triplet_sum(*given, self.plan)
        if options.negatives == "sum":
            return all_negatives()
        if options.negatives == "hardest":
            chosen = lambda: losses.triplet_hardest(*given, self.plan)
        else:
            chosen = lambda: losses.triplet_distance_weighted(
                *given, rng, cutoff=options.cutoff, plan=self.plan
            )
        sum_steps = self.loss_steps(options.sum_for)
        return jax.lax.cond(step < sum_steps, all_negatives, chosen) if sum_steps else chosen()

    def terms(self, params, image, text, batch, rng, step) -> Terms:
        """`triplet`, `dim`, `spatial`, with `inter` and `intra` apart; a term of weight 0 is not computed."""
        options, weights = self.options, self.options.weights
        v, t = image.embedding, text.embedding
        terms = {"triplet": self.triplet(image, text, batch, rng, step)}
        if weights.dim:
            attended = options.dim_samples == "attended"
            samples = attended_pairs(image, text) if attended else (v, t, jnp.ones(len(v), bool))
            each = dimension_loss(dimension_correlation(*samples), options.dim_form, options.dim_phi)
            terms["dim"] = jnp.sum(each) if options.dim_reduce == "sum" else jnp.mean(each)
        if weights.inter or weights.intra:
            terms |= spatial_losses(
                v,
                t,
                batch["image_id"],
                params.get("alpha", jnp.full((2,), options.alpha)),
                inter=weights.inter,
                intra=weights.intra,
                select_on=options.select_on,
                soft=options.mask == "soft",
                plan=self.plan,
            )
        return terms
