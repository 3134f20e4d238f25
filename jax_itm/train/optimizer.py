"""The optimizer: schedule, clipping, AdamW, and rules over parameter paths.

The path of a parameter is its keys joined by "/", such as "text/gru/forward/input/kernel". A pattern is a
regular expression that is searched in it. A pattern that matches no parameter is an error, because it would
silently have no effect on what it was written for.
"""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jax_itm.checkpoint.state import split_stats
from jax_itm.durations import steps_of
from jax_itm.errors import UserError
from jax_itm.train.layer_groups import layer_factors, locked_paths
from jax_itm.types import Array, Config, Params, PyTree


def paths(params: Params) -> PyTree:
    """A tree like `params` with the path of each leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join(str(getattr(key, "key", key)) for key in path), params
    )


def matching(params: Params, patterns: tuple[str, ...], field: str) -> PyTree:
    """A tree of booleans: whether any of `patterns` matches the path of the leaf.

    Raises:
        UserError: a pattern of `field` is no regular expression or matches no path.
    """
    names = paths(params)
    leaves = jax.tree.leaves(names)
    for pattern in patterns:
        try:
            matches = any(re.search(pattern, name) for name in leaves)
        except re.error as error:
            raise UserError(f"{field}: {pattern!r} is no regular expression ({error})") from error
        if not matches:
            raise UserError(f"{field}: {pattern!r} matches no parameter path, such as {leaves[0]!r}")
    return jax.tree.map(lambda name: any(re.search(pattern, name) for pattern in patterns), names)


def schedule(options: Config, total_steps: int, to_steps: Callable[[str], int]) -> optax.Schedule:
    """The learning rate at each step.

    Args:
        options: `config.optimizer`.
        total_steps: of the run.
        to_steps: converts a duration ("2 epochs") to steps.

    Returns:
        step -> learning rate: a linear warm-up, then the main schedule, never below `options.floor`.
    """
    warmup = to_steps(options.warmup)
    decay_steps = max(total_steps - warmup, 1)
    if options.schedule == "cosine":
        main = optax.cosine_decay_schedule(options.lr, decay_steps)
    elif options.schedule == "linear":
        main = optax.linear_schedule(options.lr, 0.0, decay_steps)
    elif options.schedule == "step":
        drops = {to_steps(duration) - warmup: options.step_factor for duration in options.step_at}
        main = optax.piecewise_constant_schedule(options.lr, drops)
    else:
        main = optax.constant_schedule(options.lr)
    if warmup:
        main = optax.join_schedules([optax.linear_schedule(0.0, options.lr, warmup), main], [warmup])
    return lambda step: jnp.maximum(main(step), options.floor)


def bert_adam(
    learning_rate: optax.Schedule,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    mask: Callable[[PyTree], PyTree],
) -> optax.GradientTransformation:
    """AdamW as in the first releases of the transformers library, with which UNITER and IAIS train.

        p <- p - rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps);   p <- p - rate weight_decay p

    So `eps` is not corrected for the small v of the first steps, and the decay acts on the new parameters.
    """

    def init(params: Params) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(
        grads: PyTree, state: optax.ScaleByAdamState, params: Params | None = None
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        count = optax.safe_increment(state.count)
        rate = jnp.asarray(learning_rate(state.count))
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu = optax.tree.update_moment(grads, state.nu, b2, 2)
        scale = rate * jnp.sqrt(1 - b2**count) / (1 - b1**count)

        def change(m: Array, v: Array, p: Array, is_decayed: bool | Array) -> Array:
            decay = rate * weight_decay * is_decayed
            return -(1 - decay) * scale * m / (jnp.sqrt(v) + eps) - decay * p

        updates = jax.tree.map(change, mu, nu, params, mask(params))
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]  # optax types states as trees


def build(
    config: Config, params: Params, total_steps: int, epoch_examples: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer that `config.optimizer` describes, of the trainable parameters, and its learning rate.

    Frozen parameters have no optimizer state and do not count in the gradient norm that is clipped. Estimates
    (`split_stats`) are not the optimizer's.

    Args:
        config: of the run.
        params: all parameters or their shapes.
        total_steps: of the run.
        epoch_examples: examples in an epoch.
    """
    options = config.optimizer
    trainable, _ = split_stats(params)
    to_steps = lambda duration: steps_of(duration, config.batch_size, epoch_examples)
    learning_rate = schedule(options, total_steps, to_steps)
    decayed = matching(trainable, options.decay_on, "config.optimizer.decay_on")
    names = paths(trainable)
    by_layer = layer_factors(config, jax.tree.leaves(names))
    factors = jax.tree.map(
        lambda factor, name: factor * by_layer.get(name, 1.0),
        _lr_factors(trainable, options.lr_factors),
        names,
    )
    adam = {"adamw": optax.adamw, "bert_adam": bert_adam}[options.name](
        learning_rate,
        *options.betas,
        eps=options.eps,
        weight_decay=options.weight_decay,
        mask=lambda tree: _mask_like(decayed, tree),
    )
    scaled = optax.stateless(
        lambda updates, _: jax.tree.map(lambda u, factor: u * factor, updates, _mask_like(factors, updates))
    )
    clip = [optax.clip_by_global_norm(options.clip)] if options.clip else []
    frozen = matching(trainable, options.freeze, "config.optimizer.freeze")
    locked = locked_paths(config, jax.tree.leaves(names))
    labels = jax.tree.map(lambda x, name: "frozen" if x or name in locked else "trained", frozen, names)
    trained = optax.chain(*clip, adam, scaled)
    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels), learning_rate


def _lr_factors(params: Params, rules: tuple[tuple[str, float], ...]) -> PyTree:
    """The factor on the learning rate of each parameter; the last of `rules` that matches counts."""
    factors = jax.tree.map(lambda _: 1.0, params)
    for pattern, factor in rules:
        matches = matching(params, (pattern,), "config.optimizer.lr_factors")
        choose = lambda old, is_match, factor=factor: factor if is_match else old
        factors = jax.tree.map(choose, factors, matches)
    return factors


def _mask_like(tree: PyTree, masked: PyTree) -> PyTree:
    """`tree` with optax's placeholder wherever `partition` has put one in `masked`."""
    is_placeholder = lambda x: isinstance(x, optax.MaskedNode)
    replace = lambda placeholder, value: placeholder if is_placeholder(placeholder) else value
    return jax.tree.map(replace, masked, tree, is_leaf=is_placeholder)
