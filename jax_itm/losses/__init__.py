"""Loss functions."""

from jax_itm.losses.contrastive import (
    gap,
    info_nce,
    sigmoid,
    triplet_distance_weighted,
    triplet_hardest,
    triplet_sum,
)

__all__ = ["gap", "info_nce", "sigmoid", "triplet_distance_weighted", "triplet_hardest", "triplet_sum"]
