"""Loss functions for anybody's training loop: pure functions of global arrays, under any mesh."""

from jax_itm.losses.alignment import attention_alignment
from jax_itm.losses.columns import column_moments, equal_length
from jax_itm.losses.components import (
    Components,
    decoupling,
    decoupling_terms,
    modality_loss,
    reconstruction_loss,
)
from jax_itm.losses.contrastive import info_nce, score_gap, sigmoid
from jax_itm.losses.dimension import (
    attended_pairs,
    dimension_alignment,
    dimension_correlation,
    dimension_objective,
    running_correlation,
)
from jax_itm.losses.masked_words import masked_lm
from jax_itm.losses.mining import rank_loss
from jax_itm.losses.objectives import cdds, dias, iais
from jax_itm.losses.sampling import Sampled, Sampling, distribution_sampling, sample_distributions
from jax_itm.losses.spatial import spatial_constraint, spatial_terms
from jax_itm.losses.triplets import triplet, triplet_terms
from jax_itm.sharded.tiles import Plan

__all__ = [
    "Components",
    "Plan",
    "Sampled",
    "Sampling",
    "attended_pairs",
    "attention_alignment",
    "cdds",
    "column_moments",
    "decoupling",
    "decoupling_terms",
    "dias",
    "dimension_alignment",
    "dimension_correlation",
    "dimension_objective",
    "distribution_sampling",
    "equal_length",
    "iais",
    "info_nce",
    "masked_lm",
    "modality_loss",
    "rank_loss",
    "reconstruction_loss",
    "running_correlation",
    "sample_distributions",
    "score_gap",
    "sigmoid",
    "spatial_constraint",
    "spatial_terms",
    "triplet",
    "triplet_terms",
]
