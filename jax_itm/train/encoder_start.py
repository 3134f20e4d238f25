"""Initial values of a run's pretrained encoders: directories of weights, or an architecture's name."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jax_itm.config import Facts
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError, listed
from jax_itm.methods.example import example_batch
from jax_itm.models import build
from jax_itm.pretrained import hf
from jax_itm.pretrained.architectures import named_architecture
from jax_itm.pretrained.directory import description_file, read_description, read_encoder_weights
from jax_itm.pretrained.files import find_directory
from jax_itm.pretrained.mapper import Weights, map_weights, unused_weights
from jax_itm.pretrained.open_clip import cleans_punctuation
from jax_itm.pretrained.preprocessor import read_preprocessor
from jax_itm.train.start_rules import Source
from jax_itm.types import SIDES, Architecture, Config

# A family's own pooling -> the loss term of its scores, and which published number is which parameter of it.
OWN_SCORES = {
    "clip": ("info_nce", {"logit_scale": "log_scale"}),
    "siglip": ("sigmoid", {"logit_scale": "log_scale", "logit_bias": "bias"}),
}


def read_encoders(config: Config, facts: Facts) -> Source | None:
    """What a run's pretrained encoders start from; None if it has no such encoder.

    Raises:
        UserError: an encoder is missing, unknown or damaged, or does not fit the config.
    """
    sides = [side for side in SIDES if config[side].name == "pretrained"]
    if not sides:
        return None
    named = {side: named_architecture(config, side) for side in sides if config[side].arch}
    folders = {
        side: find_directory(config[side].path, f"config.{side}.path") for side in sides if side not in named
    }
    read = {side: _read_architecture(config, side, folder) for side, folder in folders.items()}
    architectures = named | read
    facts = facts._replace(**{f"{side}_architecture": arch for side, arch in architectures.items()})
    for side, arch in architectures.items():
        _check_pooling(config, side, arch)
    tokenizer = None
    if "text" in folders:
        tokenizer = _encoder_tokenizer(config, facts, folders["text"])
        facts = facts._replace(vocab=len(tokenizer))
    weights = {folder: Weights(read_encoder_weights(folder), str(folder)) for folder in set(folders.values())}
    params = {}
    unused = {folder: list(read.arrays) for folder, read in weights.items()}
    for side, folder in folders.items():
        arch = architectures[side]
        inputs = example_batch(config, facts)[side]
        shapes = abstract_params(build.encoder(config, facts, side), inputs)
        family = hf.encoder_family(side, arch, config[side].pooling, str(folder))
        encoder = map_weights(family, arch, weights[folder], shapes)
        params |= {f"{side}/{path}": value for path, value in encoder.items()}
        unused[folder] = unused_weights(family, arch, unused[folder])
    notes: tuple[str, ...] = ()
    if term := _own_term(config, folders):
        folder = folders["text"]
        numbers, notes = _own_scores(config, term, weights[folder])
        params |= numbers
        unused[folder] = [name for name in unused[folder] if name not in OWN_SCORES[config.text.pooling][1]]
    for folder, left in unused.items():
        notes += unused_note(folder, left)
    name = ", ".join(f"config.{side}.path={config[side].path}" for side in folders)
    return Source(name, params, False, tokenizer, facts, notes)


def _own_term(config: Config, folders: Mapping[str, Path]) -> str:
    """The loss term that takes the published scale of scores; "" unless a run is one published model, entire.

    That is, both encoders are of one directory, with their own summaries, and the term learns its scale.
    """
    poolings = {config[side].pooling for side in SIDES}
    one_model = len(folders) == len(SIDES) and len({*folders.values()}) == len(poolings) == 1
    term, _ = OWN_SCORES.get(config.text.pooling, ("", {}))
    options = config.losses.get(term)
    is_learnt = bool(options and options.weight and options.get("learn_temperature", True))
    return term if one_model and is_learnt else ""


def _own_scores(config: Config, term: str, weights: Weights) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The published scale, within the run's limit, and bias as parameters of the term, and lines that say so.

    Raises:
        UserError: one is not one finite number.
    """
    numbers: dict[str, np.ndarray] = {}
    notes: tuple[str, ...] = ()
    for name, parameter in OWN_SCORES[config.text.pooling][1].items():
        if name not in weights.arrays:
            continue
        value = np.asarray(weights.arrays[name], np.float32)
        if value.size != 1 or not np.isfinite(value).all():
            raise UserError(f"{weights.source}: {name} is not one finite number")
        value = value.reshape(())
        field = f"config.losses.{term}.bias"
        said = f"{value:.4g}"
        if parameter == "log_scale":
            value = np.asarray(np.minimum(value, math.log(config.losses[term].max_scale)), np.float32)
            field = f"config.losses.{term}.temperature"
            said = f"x{math.exp(value):.4g}"
        numbers[f"loss/{term}/{parameter}"] = value
        notes += (f"{weights.source}: scores start at its own {name[6:]}, {said}, not at {field}",)
    return numbers, notes


def _check_pooling(config: Config, side: str, arch: Architecture) -> None:
    """Raises UserError if the pooling is another family's own, or SigLIP's of other sizes than the run's."""
    hf.encoder_family(side, arch, config[side].pooling, config[side].path or config[side].arch)
    if config[side].pooling != "siglip":
        return
    # Its images' summary has no projection, and its texts' is their last position, which may be padding.
    if side == "image" and arch["width"] != config.dim:
        raise UserError(
            f"config.dim={config.dim}: SigLIP's own summary of these images is of {arch['width']}"
        )
    if side == "text" and config.data.max_words != arch["positions"]:
        raise UserError(
            f"config.data.max_words={config.data.max_words}: this SigLIP pads every text to"
            f" {arch['positions']}, and its summary is the last position (config.text.pooling='siglip')"
        )


def unused_note(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """A line that names a directory's weights of which no parameter is made; none if there are none."""
    return (f"{folder}: not used: {listed(names)}",) if names else ()


def _read_architecture(config: Config, side: str, folder: Path) -> Architecture:
    """The architecture of a directory's encoder, and of images how they are brought to its size."""
    arch = hf.read_architecture(side, read_description(folder), str(description_file(folder)))
    if side == "image":
        arch |= read_preprocessor(folder, config.image.size)
    return ConfigDict(arch).lock()


def _encoder_tokenizer(config: Config, facts: Facts, folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(folder, cleans_punctuation(folder))
    arch = facts.text_architecture
    if len(tokenizer) > arch.vocab:
        raise UserError(f"{folder}: a tokenizer of {len(tokenizer):,} ids, but {arch.vocab:,} words")
    if config.data.max_words > arch.positions:
        raise UserError(
            f"config.data.max_words={config.data.max_words}: {folder} has {arch.positions} positions"
        )
    return tokenizer


def abstract_params(module: Any, inputs: Any) -> Mapping[str, Any]:
    """The shapes and types of a module's parameters, by path."""
    shapes: Any = jax.eval_shape(module.init, jax.random.key(0), inputs)["params"]
    return flatten_dict(shapes, sep="/")
