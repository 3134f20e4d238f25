"""The jitted steps: one training step, one embedding step, one block of scores."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from jax_itm.methods import Method
from jax_itm.parallel import by_rows, for_host, placed, replicated
from jax_itm.types import Array, Batch, Params, PyTree, Terms, UserError


@struct.dataclass
class State:
    """All that a run needs to go on; the data's state is `step` itself. Or the sharding of each array."""

    step: PyTree  # an int32
    params: Params
    opt_state: PyTree
    ema: Params | None

    @property
    def best_params(self) -> Params:
        """What evaluation uses: the averaged parameters where there are any."""
        return self.params if self.ema is None else self.ema


def init_state(
    params: Params, optimizer: optax.GradientTransformation, ema: bool, mesh: Mesh, fsdp: bool = False
) -> State:
    """The state before the first step, placed on the mesh as `parallel.placed` says."""

    def make(params):
        average = jax.tree.map(jnp.copy, params) if ema else None
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)

    shardings = placed(mesh, jax.eval_shape(make, params), fsdp)
    return jax.jit(make, out_shardings=shardings)(params)


def first_faulty(batch: Batch) -> Array:
    """The first row of a batch with an input that is not finite; -1 where there is none."""
    faulty = jnp.zeros(len(batch["image_id"]), bool)
    for leaf in jax.tree.leaves((batch["image"], batch["text"])):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            faulty |= ~jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))
    return jnp.where(jnp.any(faulty), jnp.argmax(faulty), -1)


def train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    ema: float,
    like: State | None = None,
) -> Callable[[State, Batch], tuple[State, Terms]]:
    """One update. Random numbers depend on (seed, step) alone, so a resumed run repeats them.

    The state stays where that of `like` lies, by default all of it on every device. Beside the terms there
    are `faulty`, the first row whose inputs are not finite (-1: none), and where the batch has `asked`, its
    largest number: what one process knows, all read at the same step.
    """

    def update(state: State, batch: Batch) -> tuple[State, Terms]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        objective = jax.value_and_grad(method.loss, has_aux=True)
        (loss, terms), grads = objective(state.params, batch, rng, state.step)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.ema
        if average is not None:
            average = optax.incremental_update(params, average, 1 - ema)
        scalars = terms | {"loss": loss, "grad_norm": optax.tree.norm(grads), "faulty": first_faulty(batch)}
        if "asked" in batch:
            scalars["asked"] = jnp.max(batch["asked"])
        return State(state.step + 1, params, opt_state, average), scalars

    whole, rows = replicated(mesh), by_rows(mesh)
    state = jax.tree.map(lambda x: x.sharding, like) if like else whole
    return jax.jit(update, in_shardings=(state, rows), out_shardings=(state, whole), donate_argnums=0)


def check_finite(
    scalars: dict[str, float], at: int, last_good: int, reasons: Mapping[str, str], process: int | None = None
) -> None:
    """Raises UserError that names the first term that is not finite, and why where that is known.

    `process` is the one that read an input that is not finite.
    """
    for name in sorted(scalars, key=lambda name: name in ("loss", "grad_norm")):  # the terms first
        value = scalars[name]
        if not np.isfinite(value):
            kept = f"checkpoint {last_good} is kept" if last_good else "no checkpoint yet"
            why = f" ({reasons[name]})" if name in reasons else ""
            if process is not None:
                why = f" (process {process} read an input that is not finite)"
            raise UserError(f"step {at}: {name} is {value}{why}; training stopped, {kept}")


def embed_steps(method: Method, mesh: Mesh) -> tuple[Callable, Callable]:
    """`encode_image` and `encode_text`, each (params, rows) -> embeddings on every device."""
    shardings = {
        "in_shardings": (None, by_rows(mesh)),  # parameters stay where they are
        "out_shardings": replicated(mesh),
    }
    return jax.jit(method.encode_image, **shardings), jax.jit(method.encode_text, **shardings)


def score_step(score: Callable, mesh: Mesh) -> Callable[[Params, PyTree, PyTree], Array]:
    """One block of a method's `score`s, (params, images, texts) -> (i, t), the images split over devices."""
    split = _splitter(mesh)
    return jax.jit(lambda params, i, t: score(params, split(i), t), out_shardings=for_host(mesh))


def pair_step(method: Method, mesh: Mesh) -> Callable[[Params, PyTree, PyTree], Array] | None:
    """Scores of pairs, (params, images, texts) -> (k,), split over the devices; None where there are none."""
    score_pairs, split = getattr(method, "score_pairs", None), _splitter(mesh)
    if score_pairs is None:
        return None
    score = lambda params, images, texts: score_pairs(params, *split((images, texts)))
    return jax.jit(score, out_shardings=for_host(mesh))


def _splitter(mesh: Mesh) -> Callable[[PyTree], PyTree]:
    return lambda tree: jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, by_rows(mesh)), tree)
