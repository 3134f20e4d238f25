"""The jitted training step."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jax_itm.checkpoint.state import State, split_stats, with_stats
from jax_itm.distributed.mesh import batch_sharded, replicated
from jax_itm.errors import UserError
from jax_itm.methods.base import Aux, Method
from jax_itm.types import Array, Batch, Int, Params, Terms


class Status(NamedTuple):
    """What all processes need to know of a step, equal in all of them.

    Attributes:
        stop_signal: the number of a signal that any process has received; 0: none.
        first_nonfinite_row: of the global batch, the first row with an input that is not finite; -1: none.
    """

    stop_signal: Int[Array, ""]
    first_nonfinite_row: Int[Array, ""]


Update = Callable[[State, Batch, Array], tuple[State, Terms, Status]]


def train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    ema: float,
    like: State | None = None,
) -> Update:
    """The jitted function `update(state, batch, signal) -> (state, terms, status)`.

    Random numbers depend on (seed, step) alone, so that a resumed run repeats them. `signal` is
    `distributed.mesh.per_device(mesh, number)` with the signal that this process has received, or 0.

    Args:
        method: the model and its loss.
        optimizer: of the trainable parameters.
        mesh: over which the batch is split.
        seed: of the run.
        ema: decay of the averages, if the state has any.
        like: a state whose sharding the updated states keep; by default they are replicated.
    """

    def update(state: State, batch: Batch, signal: Int[Array, "n"]) -> tuple[State, Terms, Status]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        trainable, stats = split_stats(state.params)

        def loss(trainable: Params) -> tuple[Array, Aux]:
            return method.loss(with_stats(trainable, stats), batch, rng, state.step)

        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
            updated = optax.apply_updates(trainable, updates)
        params = method.project(with_stats(updated, aux.stats or stats))
        new_state = State(state.step + 1, params, opt_state, averaged(state.ema, params, ema))
        terms = aux.terms | {"loss": value, "grad_norm": optax.tree.norm(grads)}
        return new_state, terms, Status(jnp.max(signal), first_nonfinite_row(batch))

    everywhere = replicated(mesh)
    split = batch_sharded(mesh)
    kept = jax.tree.map(lambda array: array.sharding, like) if like else everywhere
    return jax.jit(
        update,
        in_shardings=(kept, split, split),
        out_shardings=(kept, everywhere, everywhere),
        donate_argnums=0,
    )


def averaged(average: Params | None, params: Params, decay: float) -> Params | None:
    """The moving average after an update; estimates are copied, because they are averages already."""
    if average is None:
        return None
    old, _ = split_stats(average)
    new, stats = split_stats(params)
    return with_stats(optax.incremental_update(new, old, 1 - decay), stats)


def first_nonfinite_row(batch: Batch) -> Int[Array, ""]:
    """The first row of a batch with an input that is not finite; -1 if all are."""
    nonfinite = jnp.zeros(len(batch["image_id"]), bool)
    for leaf in jax.tree.leaves((batch["image"], batch["text"])):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            nonfinite |= ~jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))
    return jnp.where(jnp.any(nonfinite), jnp.argmax(nonfinite), -1)


def check_finite(
    terms: Mapping[str, float],
    step: int,
    last_checkpoint: int,
    reasons: Mapping[str, str],
    process: int | None = None,
) -> None:
    """Raises UserError if a term is not finite.

    Args:
        terms: of the loss, and its sum and gradient norm, which are named only if no term is to blame.
        step: whose terms they are.
        last_checkpoint: the step of the newest checkpoint; 0: none.
        reasons: why a term may become infinite, by its name.
        process: that read an input that is not finite; None if all inputs are.
    """
    for name in sorted(terms, key=lambda name: name in ("loss", "grad_norm")):
        value = terms[name]
        if np.isfinite(value):
            continue
        reason = f" ({reasons[name]})" if name in reasons else ""
        if process is not None:
            reason = f" (process {process} read an input that is not finite)"
        kept = f"checkpoint {last_checkpoint} is kept" if last_checkpoint else "there is no checkpoint yet"
        raise UserError(f"step {step}: {name} is {value}{reason}; training stopped, {kept}")
