"""Loss functions for any training loop: pure functions of global arrays, under any mesh.

They form scores between all images and all texts of a batch that is split over devices, and neither gather
the embeddings (unless they are small) nor ever hold the matrix of scores: memory is a few shards, whatever
the batch. Values and gradients are the same on any number of devices.

    >>> import jax, jax.numpy as jnp
    >>> from jax.sharding import NamedSharding, PartitionSpec
    >>> from jax_itm import losses
    >>> mesh = jax.make_mesh((jax.device_count(),), ("dp",))  # any axes, Auto or Explicit
    >>> images = texts = jax.device_put(jnp.eye(64), NamedSharding(mesh, PartitionSpec("dp")))
    >>> loss = lambda images, texts, scale: losses.info_nce(images, texts, scale=scale, axis="dp")
    >>> with jax.set_mesh(mesh):
    ...     value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(images, texts, 10.0)
    >>> print(f"{value:.4f}")
    0.0029

What to know:

    arrays    global arrays, images (b, d) and texts (b, d), L2-normalised, row k with row k. float32,
              bfloat16 or float16: they are cast to float32 once, and gradients come back in their own dtype.
    mesh      the one that `jax.set_mesh` has set; without one there is one device. `axis` names the axis,
              or a tuple of them, that splits the batch; all other axes are free for the model. Devices that
              differ in those alone repeat the same work: a tuple of all axes divides it over all.
    jit       call the losses inside a jitted function, and take the gradient outside of any `shard_map`.
    cache     over several virtual CPU devices, leave JAX's compilation cache off: in jaxlib 0.10.2 a program
              that comes from it does not keep the order of its collectives, and hangs or gives wrong values.
    errors    `ArgumentError`, a ValueError in one line.

`Plan` chooses between time and memory. Nothing here needs Flax, Optax, Orbax or TensorFlow.
"""

from jax_itm.arrays import AttentionMaps, l2_normalise
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
    dimension_alignment,
    dimension_correlation,
    dimension_objective,
    running_correlation,
)
from jax_itm.losses.masked_words import masked_lm
from jax_itm.losses.mining import pool_softmax, rank_loss
from jax_itm.losses.objectives import cdds, dias, iais
from jax_itm.losses.sampling import Sampled, Sampling, distribution_sampling, sample_distributions
from jax_itm.losses.spatial import spatial_constraint, spatial_terms
from jax_itm.losses.token_pairs import attended_pairs
from jax_itm.losses.triplets import triplet, triplet_terms
from jax_itm.sharded.tiles import Plan

__all__ = [
    "AttentionMaps",
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
    "l2_normalise",
    "masked_lm",
    "modality_loss",
    "pool_softmax",
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
