"""The jitted steps of inference: encoding a batch, scoring a block, scoring pairs."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from jax_itm.distributed.mesh import batch_sharded, host_readable, replicated
from jax_itm.types import Array, Inputs, Params, PyTree

Encode = Callable[[Params, Inputs], PyTree]
Score = Callable[[Params, PyTree, PyTree], Array]


def encode_step(encode: Encode, mesh: Mesh) -> Encode:
    """Encodes a batch that is split over the devices; every device gets all of the result."""
    # None: the parameters stay where they are.
    return jax.jit(encode, in_shardings=(None, batch_sharded(mesh)), out_shardings=replicated(mesh))


def score_step(score: Score, mesh: Mesh) -> Score:
    """Scores a block (i, t), whose images are split over the devices."""

    def step(params: Params, images: PyTree, texts: PyTree) -> Array:
        return score(params, _split_over(mesh, images), texts)

    return jax.jit(step, out_shardings=host_readable(mesh))


def pair_step(score_pairs: Score, mesh: Mesh) -> Score:
    """Scores pairs (k,), which are split over the devices."""

    def step(params: Params, images: PyTree, texts: PyTree) -> Array:
        return score_pairs(params, _split_over(mesh, images), _split_over(mesh, texts))

    return jax.jit(step, out_shardings=host_readable(mesh))


def _split_over(mesh: Mesh, tree: PyTree) -> PyTree:
    sharding = batch_sharded(mesh)
    return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, sharding), tree)
