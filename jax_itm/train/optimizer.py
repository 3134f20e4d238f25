"""The optimiser: schedule, clipping, AdamW, and rules over parameter paths.

A parameter's path is its keys joined by "/", such as "text/gru/forward/input/kernel". A pattern is a
regular expression searched in it; one that matches no parameter is an error, since it would silently
leave alone what it was meant for.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_itm.durations import steps_of
from jax_itm.errors import UserError
from jax_itm.types import Params, PyTree


def paths(params: Params) -> PyTree:
    """A tree like `params` with each leaf's path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join(str(getattr(key, "key", key)) for key in path), params
    )


def matching(params: Params, patterns: tuple[str, ...], field: str) -> PyTree:
    """A tree of booleans: whether any of `patterns` is found in the leaf's path."""
    names = paths(params)
    for pattern in patterns:
        try:
            found = any(re.search(pattern, name) for name in jax.tree.leaves(names))
        except re.error as error:
            raise UserError(f"{field}: {pattern!r} is no regular expression ({error})") from error
        if not found:
            raise UserError(
                f"{field}: {pattern!r} matches no parameter path, such as {jax.tree.leaves(names)[0]!r}"
            )
    return jax.tree.map(lambda name: any(re.search(p, name) for p in patterns), names)


def schedule(config, total: int, to_steps: Callable[[str], int]) -> optax.Schedule:
    """The learning rate of `config.optimizer` at each step of a run of `total` steps."""
    warmup = to_steps(config.warmup)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(config.lr, max(total - warmup, 1))
    elif config.schedule == "linear":
        main = optax.linear_schedule(config.lr, 0.0, max(total - warmup, 1))
    elif config.schedule == "step":
        drops = {to_steps(at) - warmup: config.step_factor for at in config.step_at}
        main = optax.piecewise_constant_schedule(config.lr, drops)
    else:
        main = optax.constant_schedule(config.lr)
    if warmup:
        main = optax.join_schedules([optax.linear_schedule(0.0, config.lr, warmup), main], [warmup])
    return lambda count: jnp.maximum(main(count), config.floor)


def bert_adam(
    rate: optax.Schedule, b1: float, b2: float, eps: float, weight_decay: float, mask
) -> optax.GradientTransformation:
    """AdamW as in the first releases of the transformers library, with which UNITER and IAIS train.

        p <- p - rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps);   p <- p - rate weight_decay p

    So `eps` is not corrected for the first steps' small v, and the decay acts on the new parameters.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates, state: Any, params=None):
        count, at = optax.safe_increment(state.count), rate(state.count)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        scale = at * jnp.sqrt(1 - b2**count) / (1 - b1**count)

        def one(m, v, p, decayed):
            decay = at * weight_decay * decayed
            return -(1 - decay) * scale * m / (jnp.sqrt(v) + eps) - decay * p

        updates = jax.tree.map(one, mu, nu, params, mask(params))
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def build(
    config, params: Params, total: int, epoch_examples: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser that `config.optimizer` describes, and its schedule.

    Frozen parameters keep no optimiser state and count in no norm.
    """
    options = config.optimizer
    rate = schedule(options, total, lambda d: steps_of(d, config.batch_size, epoch_examples))
    decayed = matching(params, options.decay_on, "config.optimizer.decay_on")
    towers = tuple(f"^{side}/tower/" for side in ("image", "text") if config[side].frozen)
    frozen = matching(params, (*options.freeze, *towers), "config.optimizer.freeze")
    factors = jax.tree.map(lambda _: 1.0, params)
    for pattern, factor in options.lr_factors:
        hit = matching(params, (pattern,), "config.optimizer.lr_factors")
        factors = jax.tree.map(lambda old, is_hit, f=factor: f if is_hit else old, factors, hit)
    steps = [optax.clip_by_global_norm(options.clip)] if options.clip else []
    adam = {"adamw": optax.adamw, "bert_adam": bert_adam}[options.name]
    steps += [
        adam(
            rate,
            *options.betas,
            eps=options.eps,
            weight_decay=options.weight_decay,
            mask=lambda tree: _like(decayed, tree),
        ),
        optax.stateless(
            lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, _like(factors, updates))
        ),
    ]
    labels = jax.tree.map(lambda off: "frozen" if off else "trained", frozen)
    transform = optax.partition({"trained": optax.chain(*steps), "frozen": optax.set_to_zero()}, labels)
    return transform, rate


def _like(tree: PyTree, masked: PyTree) -> PyTree:
    """`tree` with optax's placeholder wherever `partition` has one."""
    is_mask = lambda x: isinstance(x, optax.MaskedNode)
    return jax.tree.map(lambda m, t: m if is_mask(m) else t, masked, tree, is_leaf=is_mask)
