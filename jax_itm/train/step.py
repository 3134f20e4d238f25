"""The jitted steps: one training step, one embedding step, one block of scores."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jax_itm.checkpoint.state import State
from jax_itm.distributed.mesh import by_rows, replicated
from jax_itm.errors import UserError
from jax_itm.methods import Method
from jax_itm.types import Array, Batch, Terms


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
