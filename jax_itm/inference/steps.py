"""The jitted steps of inference: one embedding step, one block of scores, scores of pairs."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from jax_itm.distributed.mesh import batch_sharded, host_readable, replicated
from jax_itm.methods import Method
from jax_itm.types import Array, Params, PyTree


def embed_steps(method: Method, mesh: Mesh) -> tuple[Callable, Callable]:
    """`encode_image` and `encode_text`, each (params, rows) -> embeddings on every device."""
    shardings = {
        "in_shardings": (None, batch_sharded(mesh)),  # parameters stay where they are
        "out_shardings": replicated(mesh),
    }
    return jax.jit(method.encode_image, **shardings), jax.jit(method.encode_text, **shardings)


def score_step(score: Callable, mesh: Mesh) -> Callable[[Params, PyTree, PyTree], Array]:
    """One block of a method's `score`s, (params, images, texts) -> (i, t), the images split over devices."""
    split = _splitter(mesh)
    return jax.jit(lambda params, i, t: score(params, split(i), t), out_shardings=host_readable(mesh))


def pair_step(method: Method, mesh: Mesh) -> Callable[[Params, PyTree, PyTree], Array] | None:
    """Scores of pairs, (params, images, texts) -> (k,), split over the devices; None where there are none."""
    score_pairs, split = getattr(method, "score_pairs", None), _splitter(mesh)
    if score_pairs is None:
        return None
    score = lambda params, images, texts: score_pairs(params, *split((images, texts)))
    return jax.jit(score, out_shardings=host_readable(mesh))


def _splitter(mesh: Mesh) -> Callable[[PyTree], PyTree]:
    return lambda tree: jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, batch_sharded(mesh)), tree)
