"""Validates a configuration: each field by itself, and fields against one another."""

import difflib
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from jax_itm.config.fields import Field
from jax_itm.durations import steps_of
from jax_itm.errors import UserError
from jax_itm.types import SIDES, Config

SUMMARIES = ("cls", "clip", "siglip")  # poolings that take one token of a pretrained encoder
NAME_BYTES = 255  # of a file's name, on all common file systems
LENGTHS = ("duration", "evaluate.every")  # durations that must be a step at least


def nearest(name: str, names: list[str]) -> str:
    """The end of an error's line: what the name may have been meant to be."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(names))}"


def check_fields(fields: Mapping[str, Field], values: Mapping[str, Any]) -> None:
    """Raises UserError for a field that is unknown, missing, or of a value that it may not have."""
    for name, field in fields.items():
        if name not in values:
            raise UserError(f"config.{name}: missing")
        _check_type(name, field, values[name])
        _check_value(name, field, values[name])
    for name in values:
        if name not in fields:
            raise UserError(f"config.{name}: no such field{nearest(name, list(fields))}")


def _check_type(name: str, field: Field, value: Any) -> None:
    kind = type(field.default)
    fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if kind in (int, float) and isinstance(value, bool):
        fits = False
    if not fits:
        raise UserError(
            f"config.{name}={value!r}: must be of type {kind.__name__}, such as {field.default!r}"
        )


def _check_value(name: str, field: Field, value: Any) -> None:
    if field.choices and value not in field.choices:
        choices = ", ".join(map(repr, field.choices))
        raise UserError(f"config.{name}={value!r}: must be one of {choices}")
    if field.duration:
        for each in value if isinstance(value, tuple) else (value,):
            if not steps_of(each, 1, 1, f"config.{name}") and name in LENGTHS:
                raise UserError(f"config.{name}={each!r}: must be at least one step")
    elif isinstance(value, str):
        _check_text(name, value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(name, field, value)


def _check_text(name: str, value: str) -> None:
    """A text names a file, a folder, a split or a run, and so must be what a file system can hold."""
    try:
        is_name = "\0" not in value and all(len(os.fsencode(x)) <= NAME_BYTES for x in value.split("/"))
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise UserError(
            f"config.{name}={value!r}: no file can be called so (at most {NAME_BYTES} bytes, none 0)"
        )


def _check_range(name: str, field: Field, value: int | float) -> None:
    limits = [
        (field.at_least, lambda x: value >= x, "at least"),
        (field.above, lambda x: value > x, "above"),
        (field.at_most, lambda x: value <= x, "at most"),
        (field.below, lambda x: value < x, "below"),
    ]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"config.{name}={value}: must be a finite number")
    for limit, holds, words in limits:
        if limit is not None and not holds(limit):
            raise UserError(f"config.{name}={value}: must be {words} {limit:g}")


def check_rules(config: Config) -> None:
    """Raises UserError where values do not fit each other."""
    if config.batch_size % config.micro_batches:
        raise UserError(
            f"config.micro_batches={config.micro_batches}: does not divide"
            f" config.batch_size={config.batch_size}"
        )
    wanted = "regions" if config.image.name == "regions" else "pixels"
    if config.data.modality != wanted:
        raise UserError(
            f"config.image.name={config.image.name!r} reads config.data.modality={wanted!r},"
            f" not {config.data.modality!r}"
        )
    _check_mixture(config)
    _check_optimizer(config)
    _check_augment(config)
    for side in SIDES:
        _check_encoder(config, side)
    if "head" in config:
        _check_dual_encoder(config)
    else:
        _check_cross_encoder(config)


def _check_mixture(config: Config) -> None:
    for entry in config.data.mixture:
        types = tuple(map(type, entry)) if isinstance(entry, tuple) else ()
        if types not in ((str, str, int), (str, str, float)) or not 0 < entry[2] < math.inf:
            raise UserError(
                f"config.data.mixture: {entry!r} is no (name, data_dir, weight above 0), such as"
                " ('webdataset', 'data/cc3m', 3.0)"
            )
    for side in SIDES:
        if config.data.mixture and config[side].cached:
            raise UserError(f"config.{side}.cached: not with config.data.mixture")


def _check_optimizer(config: Config) -> None:
    betas = config.optimizer.betas
    if len(betas) != 2 or not all(isinstance(b, int | float) and 0 <= b < 1 for b in betas):
        raise UserError(f"config.optimizer.betas={betas!r}: must be two numbers from 0 to below 1")
    for name in ("decay_on", "freeze"):
        for pattern in config.optimizer[name]:
            _check_pattern(f"config.optimizer.{name}", pattern)
    for pair in config.optimizer.lr_factors:
        pair_fits = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], int | float)
        if not pair_fits or not 0 <= pair[1] < math.inf:
            raise UserError(
                f"config.optimizer.lr_factors: {pair!r} is no pair (pattern, factor of 0 or more)"
            )
        _check_pattern("config.optimizer.lr_factors", pair[0])


def _check_pattern(name: str, pattern: Any) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UserError(f"{name}: {pattern!r} is no regular expression ({error})") from error


def _check_augment(config: Config) -> None:
    crop = config.image.augment.crop
    if not (crop or config.image.augment.flip):
        return
    areas = [x for x in crop if isinstance(x, int | float) and 0 < x <= 1]
    if crop and not (len(crop) == len(areas) == 2 and crop[0] <= crop[1]):
        raise UserError(
            f"config.image.augment.crop={crop}: must be the smallest and the largest fraction of the area,"
            " such as (0.08, 1.0), or () for none"
        )
    name = "crop" if crop else "flip"
    if config.data.modality != "pixels":
        raise UserError(f"config.image.augment.{name}: needs config.data.modality='pixels'")
    if config.image.cached:
        raise UserError(f"config.image.augment.{name}: cached tokens (config.image.cached) never change")


def _check_encoder(config: Config, side: str) -> None:
    encoder = config[side]
    pretrained = encoder.name == "pretrained"
    if pretrained and "uniter" in config:
        raise UserError(f"config.{side}.name='pretrained': a cross-encoder has an encoder of its own, UNITER")
    if pretrained and not (encoder.path or encoder.arch):
        raise UserError(
            f"config.{side}.path: name the directory of the pretrained encoder, or an architecture"
            f" (config.{side}.arch) to start it from random values"
        )
    if encoder.arch and (encoder.path or encoder.frozen or not pretrained):
        raise UserError(
            f"config.{side}.arch={encoder.arch!r}: starts config.{side}.name='pretrained' from random values:"
            " without a path, and not frozen"
        )
    if not pretrained and encoder.pooling in SUMMARIES:
        raise UserError(f"config.{side}.pooling={encoder.pooling!r}: needs config.{side}.name='pretrained'")
    if not pretrained and encoder.frozen:
        raise UserError(f"config.{side}.frozen: needs config.{side}.name='pretrained'")
    _check_tuning(config, side)
    if encoder.cached and not encoder.frozen:
        raise UserError(f"config.{side}.cached: needs config.{side}.frozen=True")
    if side == "image" and encoder.norm != "none" and config.micro_batches > 1:
        raise UserError(
            "config.image.norm='batch': needs config.micro_batches=1, or statistics would be of a part"
        )
    if side == "image" and encoder.norm != "none" and encoder.name != "regions" and not encoder.hidden:
        raise UserError("config.image.norm='batch': it is part of an MLP, so it needs config.image.hidden")
    if side == "image" and encoder.pooling == "siglip" and encoder.hidden:
        raise UserError(
            "config.image.hidden: SigLIP's own pooling has no projection that it could be added to"
        )
    if encoder.name == "vit" and encoder.patch > config.data.image_size:
        raise UserError(
            f"config.image.patch={encoder.patch}: larger than config.data.image_size={config.data.image_size}"
        )
    transformer = {"image": "vit", "text": "bert"}[side]
    if encoder.name == transformer and encoder.width % encoder.heads:
        raise UserError(
            f"config.{side}.heads={encoder.heads}: does not divide config.{side}.width={encoder.width}"
        )


TRANSFORMERS = ("vit", "bert", "pretrained")  # encoders with a backbone of layers


def _check_tuning(config: Config, side: str) -> None:
    """What is trained of an encoder's backbone is said once."""
    encoder = config[side]
    ways = {"frozen": encoder.frozen, "lora.rank": encoder.lora.rank, "tune_last": encoder.tune_last}
    chosen = [name for name, value in ways.items() if value]
    if len(chosen) > 1:
        raise UserError(f"config.{side}.{chosen[0]} and config.{side}.{chosen[1]}: choose one of them")
    if chosen and (encoder.name not in TRANSFORMERS or "uniter" in config):
        raise UserError(f"config.{side}.{chosen[0]}: needs a transformer as config.{side}.name")
    for pattern in encoder.lora.on:
        _check_pattern(f"config.{side}.lora.on", pattern)
    if side == "image" and encoder.patch_dropout and encoder.name not in ("vit", "pretrained"):
        raise UserError("config.image.patch_dropout: needs a ViT as config.image.name")
    if side == "image" and encoder.patch_dropout and encoder.cached:
        raise UserError("config.image.patch_dropout: cached tokens (config.image.cached) never change")
    if side == "text" and encoder.vectors and encoder.name not in ("bigru", "bow"):
        raise UserError(
            "config.text.vectors: needs config.text.name='bigru' or 'bow', which have a word table"
        )


def _check_dual_encoder(config: Config) -> None:
    losses = config.losses
    head = config.head
    if not any(term.weight for term in losses.values()):
        raise UserError(f"config.losses: every weight is 0; switch a term on, of {', '.join(sorted(losses))}")
    if losses.spatial.learn_alpha and losses.spatial.mask != "soft":
        raise UserError("config.losses.spatial.learn_alpha: needs config.losses.spatial.mask='soft'")
    if losses.decoupling.weight and head.name != "unet":
        raise UserError(f"config.losses.decoupling.weight: needs config.head.name='unet', not {head.name!r}")
    if config.score == "mapped" and not losses.sampling.weight:
        raise UserError(
            "config.score='mapped': needs config.losses.sampling.weight above 0, which estimates the map"
        )
    if head.name != "none":
        for side in SIDES:
            if config[side].pooling != "mean":
                raise UserError(f"config.{side}.pooling={config[side].pooling!r}: a head pools by 'mean'")
    if head.name == "unet" and config.dim % head.heads:
        raise UserError(f"config.head.heads={head.heads}: does not divide config.dim={config.dim}")


def _check_cross_encoder(config: Config) -> None:
    mining = config.mining
    if config.batch_size % mining.pool:
        raise UserError(
            f"config.batch_size={config.batch_size}: not whole pools of config.mining.pool={mining.pool}"
        )
    if mining.anchors > mining.pool or mining.hardest >= mining.pool:
        raise UserError(
            f"config.mining.pool={mining.pool}: too small for {mining.anchors} anchors with"
            f" {mining.hardest} negatives each"
        )
    if mining.anchors % config.micro_batches:
        raise UserError(
            f"config.micro_batches={config.micro_batches}: does not divide"
            f" config.mining.anchors={mining.anchors}"
        )
    losses = config.losses
    if losses.pool_softmax.weight and losses.rank.weight:
        raise UserError(
            "config.losses.pool_softmax.weight: instead of config.losses.rank.weight; set that to 0"
        )
    if mining.neighbours and not losses.pool_softmax.weight:
        raise UserError("config.mining.neighbours: needs config.losses.pool_softmax.weight above 0")
    name = "uniter" if "uniter" in config else "matcher"
    if config[name].hidden % config[name].heads:
        raise UserError(
            f"config.{name}.heads={config[name].heads}: does not divide"
            f" config.{name}.hidden={config[name].hidden}"
        )
    if name == "matcher":
        _check_token_matcher(config)


def _check_token_matcher(config: Config) -> None:
    if config.losses.masked_lm.weight:
        raise UserError("config.losses.masked_lm.weight: needs UNITER, whose words can be hidden")
    if config.image.norm != "none":
        raise UserError("config.image.norm: a matcher takes encoders without batch normalisation")
    for side in SIDES:
        if config[side].lora.rank:
            raise UserError(f"config.{side}.lora.rank: a matcher takes encoders as they are; set it to 0")
