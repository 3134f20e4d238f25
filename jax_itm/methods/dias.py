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
from jax_itm.methods.base import DualEncoder, register
from jax_itm.models.layers import MASKED, Encoded, l2_normalise
from jax_itm.similarity import over_rows, total
from jax_itm.spatial import spatial_losses
from jax_itm.types import Array, Bool, Float, Terms


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


PHI = {
    "relu": jax.nn.relu,
    "abs": jnp.abs,
    "square": jnp.square,
    "exp": lambda c: jnp.exp(c / 0.1),
}


def dimension_correlation(
    a: Float[Array, "m d"], b: Float[Array, "m d"], valid: Bool[Array, "m"]
) -> Float[Array, "d d"]:
    """`C = A^T B / m`, each column standardised over the true samples of the *global* batch.

    Spec section 3. Samples are split over the devices; C is equal on all of them.
    """

    def rows(a, b, valid):
        weight = valid[:, None].astype(a.dtype)
        count = total(jnp.sum(weight))

        def standardise(x):
            x = (x - total(jnp.sum(x * weight, axis=0)) / count) * weight
            variance = total(jnp.sum(x * x, axis=0)) / count
            return x * jax.lax.rsqrt(variance + 1e-8)

        return total(standardise(a).T @ standardise(b)) / count

    return over_rows(rows, a, b, valid)


def dimension_loss(c: Float[Array, "d d"], form: str, phi: str, eps: float = 1e-6) -> Float[Array, "d"]:
    """L_dim of each dimension k, from the correlations of dimensions (spec section 3).

    ratio     -(phi(C_kk) / (sum_l phi(C_kl) + eps) + phi(C_kk) / (sum_l phi(C_lk) + eps))
    infonce   -log of the two ratios (of phi = exp(./0.1) in the usual form)
    barlow    (1 - C_kk)^2 + 5e-3 sum_{l != k} C_kl^2       (Zbontar et al., 2021)
    diagonal  -C_kk
    """
    diagonal = jnp.diagonal(c)
    if form == "diagonal":
        return -diagonal
    if form == "barlow":
        return (1 - diagonal) ** 2 + 5e-3 * (jnp.sum(c * c, axis=1) - diagonal**2)
    p = PHI[phi](c)
    own = jnp.diagonal(p)
    by_row, by_column = own / (jnp.sum(p, axis=1) + eps), own / (jnp.sum(p, axis=0) + eps)
    if form == "infonce":
        return -jnp.log(by_row + eps) - jnp.log(by_column + eps)
    return -(by_row + by_column)


def attended_pairs(
    image: Encoded, text: Encoded, scale: float = 9.0
) -> tuple[Float[Array, "m d"], Float[Array, "m d"], Bool[Array, "m"]]:
    """Paired samples for L_dim: each region with its mixture of the matched caption's words, and back.

    Attention by cosine times `scale` (SCAN's 9). Used only inside L_dim, never in a score. Returns
    image-side and text-side samples, m = b (r + w), and which of them are real.
    """
    regions, words = l2_normalise(image.tokens), l2_normalise(text.tokens)
    cosine = jnp.einsum("brd,bwd->brw", regions, words)

    def mixture(cosine, mask, tokens):
        weight = jax.nn.softmax(jnp.where(mask[:, None, :], scale * cosine, MASKED), axis=2)
        return jnp.einsum("bqk,bkd->bqd", weight, tokens)

    of_words = mixture(cosine, text.mask, text.tokens)
    of_regions = mixture(jnp.swapaxes(cosine, 1, 2), image.mask, image.tokens)
    flat = lambda *parts: jnp.concatenate(parts, axis=1).reshape(-1, words.shape[-1])
    valid = jnp.concatenate([image.mask, text.mask], axis=1).reshape(-1)
    return flat(image.tokens, of_regions), flat(of_words, text.tokens), valid


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
