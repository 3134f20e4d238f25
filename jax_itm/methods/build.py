"""Builds a method from a configuration."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jax_itm.config import Facts, default
from jax_itm.durations import steps_of
from jax_itm.losses import Plan
from jax_itm.methods.base import Durations, Method
from jax_itm.methods.cross_encoder import CrossEncoder
from jax_itm.methods.dual_encoder import DualEncoder
from jax_itm.methods.heads import Head, TokensHead, UnetHead
from jax_itm.models.build import encoder, token_matcher, uniter
from jax_itm.models.lora import Lora, apply_adapters
from jax_itm.models.unet import DualPath
from jax_itm.types import Config, Params


def build(config: Config, facts: Facts, epoch_examples: int = 1) -> Method:
    """The method that `config` describes.

    Args:
        config: of a run.
        facts: of the run.
        epoch_examples: examples of an epoch, which turn durations into steps; only training needs it.
    """
    to_steps = partial(steps_of, batch_size=config.batch_size, epoch_examples=epoch_examples)
    make = _dual_encoder if "head" in config else _cross_encoder
    return make(config, facts, to_steps)


def label(config: Config) -> str:
    """The preset, and how the config's losses differ from it: "sigmoid + dimension", "dias - spatial".

    CDDS is named with its variant: `practical` has a share of the identity in S, `paper` has none.
    """
    preset = default(config.preset)
    terms = [name for name in config.losses if bool(config.losses[name].weight) != _is_on(preset, name)]
    switched = "".join(f" {'+' if config.losses[name].weight else '-'} {name}" for name in terms)
    return config.preset + _variant(config) + switched


def _variant(config: Config) -> str:
    if config.preset != "cdds":
        return ""
    return " practical" if config.losses.sampling.identity else " paper"


def _is_on(config: Config, name: str) -> bool:
    return name in config.losses and bool(config.losses[name].weight)


def _dual_encoder(config: Config, facts: Facts, to_steps: Callable[[str], int]) -> DualEncoder:
    return DualEncoder(
        encoder(config, facts, "image"),
        encoder(config, facts, "text"),
        config.losses.to_dict(),
        head(config),
        score=config.score,
        plan=Plan(**config.similarity),
        precision=config.precision,
        micro_batches=config.micro_batches,
        to_steps=to_steps,
        label=label(config),
        lora=adapters(config),
    )


def adapters(config: Config) -> dict[str, Lora]:
    """What `config.image.lora` and `config.text.lora` put on the encoders, by side."""
    options = {side: config[side].lora for side in ("image", "text")}
    return {
        side: Lora(lora.on, lora.rank, lora.alpha, f"config.{side}.lora")
        for side, lora in options.items()
        if lora.rank
    }


def merge_adapters(params: Params, config: Config) -> Params:
    """A run's parameters with LoRA's adapters merged into the kernels: those of the same run without LoRA."""
    merged = {side: apply_adapters(params[side], lora) for side, lora in adapters(config).items()}
    return {**params, **merged}


def head(config: Config) -> Head | None:
    """What `config.head` puts on the encoders."""
    options = config.head
    if options.name == "none":
        return None
    if options.name == "tokens":
        return TokensHead()
    module: nn.Module = DualPath(
        dim=config.dim,
        layers=options.layers,
        heads=options.heads,
        mlp=options.mlp,
        samples=options.noises,
        scale=options.noise_scale,
        remat=config.remat,
        dtype=jnp.dtype(config.dtype),
    )
    return UnetHead(module)


def _cross_encoder(config: Config, facts: Facts, to_steps: Callable[[str], int]) -> CrossEncoder:
    model = uniter(config, facts) if "uniter" in config else token_matcher(config, facts)
    weights = {name: (to_steps(term.start), to_steps(term.ramp)) for name, term in config.losses.items()}
    durations = Durations(max(to_steps(config.duration), 1), to_steps(config.mining.random_for), weights)
    return CrossEncoder(
        model,
        config.losses,
        config.mining,
        durations,
        precision=config.precision,
        micro_batches=config.micro_batches,
        block_images=config.evaluate.batch_size,
        label=label(config),
    )
