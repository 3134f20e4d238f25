"""What the parameters of a new run start from: a run, a BERT directory, pretrained encoders, or nothing.

`config.start` names another run (a converted one, too), which gives all parameters, or a BERT directory as
the transformers library saves one, which gives UNITER its words, positions, layers and pooler, as UNITER's
own pretraining was started; the regions' parts and the score's head keep their random values. Without it,
`config.image.path` and `config.text.path` give pretrained encoders the parameters of their backbones.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jax_itm.checkpoint.checkpoints import has_checkpoint
from jax_itm.config import Facts
from jax_itm.data.sources.raw import read_table
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError, listed
from jax_itm.inference.matcher import load
from jax_itm.inference.token_cache import SIDES
from jax_itm.methods.example import example_batch
from jax_itm.models import build
from jax_itm.pretrained import hf
from jax_itm.pretrained.files import DESCRIPTION, find_directory, read_weights
from jax_itm.pretrained.hf_families import FAMILIES
from jax_itm.pretrained.mapper import Weights, map_weights, unused_weights
from jax_itm.pretrained.open_clip import description_file, read_description, read_encoder_weights
from jax_itm.pretrained.preprocessor import read_preprocessor
from jax_itm.train.start_rules import Source
from jax_itm.types import Architecture, Config

# A family's own pooling -> the loss term of its scores, and which published number is which parameter of it.
OWN_SCORES = {
    "clip": ("info_nce", {"logit_scale": "log_scale"}),
    "siglip": ("sigmoid", {"logit_scale": "log_scale", "logit_bias": "bias"}),
}
BERT_FILES = (DESCRIPTION, "vocab.txt")  # of a BERT directory


def read_source(config: Config, facts: Facts = Facts()) -> Source | None:  # noqa: B008
    """Reads what `config` starts from; None if that is nothing.

    Its facts are `facts`, those of the data, completed by the architectures of pretrained encoders.

    Raises:
        UserError: neither a run nor a BERT directory, a BERT of other sizes than the model's, or a pretrained
            encoder that is missing, unknown or damaged.
    """
    if not config.start:
        return _read_encoders(config, facts)
    if has_checkpoint(config.start):
        return _read_run(config, facts)
    return _read_bert(config, facts)


def _read_run(config: Config, facts: Facts) -> Source:
    name = f"config.start={config.start}"
    run = load(config.start)
    for side in SIDES:
        theirs = run.config[side].name
        if config[side].name == "pretrained" and theirs != "pretrained":
            raise UserError(f"{name}: its {side} encoder is {theirs!r}, but config.{side}.name='pretrained'")
    facts = run.facts._replace(region_dim=facts.region_dim)
    return Source(name, flatten_dict(run.params, sep="/"), True, run.tokenizer, facts)


# -- a BERT directory ---------------------------------------------------------------------------------------


def _read_bert(config: Config, facts: Facts) -> Source:
    name = f"config.start={config.start}"
    folder = Path(config.start)
    missing = [file for file in BERT_FILES if not (folder / file).exists()]
    if missing:
        raise UserError(f"{name}: no run, and no BERT directory either: no {missing[0]} there")
    if "uniter" not in config:
        raise UserError(f"{name}: a BERT directory starts a cross-encoder alone")
    _check_bert_sizes(read_table(folder / DESCRIPTION), config.uniter, name)
    tokenizer = Tokenizer.from_vocab_folder(folder)
    facts = facts._replace(vocab=len(tokenizer))
    shapes = _abstract_params(build.uniter(config, facts), example_batch(config, facts))
    weights = Weights(read_weights(folder), str(folder))
    family = FAMILIES["pair"]["bert"]
    arch = {"layers": config.uniter.layers}
    params = map_weights(family, arch, weights, shapes)
    unused = unused_weights(family, arch, weights.arrays)
    return Source(name, params, False, tokenizer, facts, _unused_note(folder, unused))


def _check_bert_sizes(description: Mapping[str, Any], options: Config, name: str) -> None:
    expected = {
        "model_type": "bert",
        "hidden_size": options.hidden,
        "num_attention_heads": options.heads,
        "intermediate_size": options.mlp or 4 * options.hidden,
        "hidden_act": "gelu",
    }
    for field, value in expected.items():
        if description.get(field) != value:
            raise UserError(
                f"{name}: config.json has {field} {description.get(field)!r}, config.uniter needs {value!r}"
            )
    layers = description.get("num_hidden_layers", 0)
    if type(layers) is not int or layers < options.layers:
        raise UserError(f"config.uniter.layers={options.layers}: {name} has {layers!r}")


# -- pretrained encoders ------------------------------------------------------------------------------------


def _read_encoders(config: Config, facts: Facts) -> Source | None:
    sides = [side for side in SIDES if config[side].name == "pretrained"]
    if not sides:
        return None
    folders = {side: find_directory(config[side].path, f"config.{side}.path") for side in sides}
    architectures = {side: _read_architecture(config, side, folder) for side, folder in folders.items()}
    facts = facts._replace(**{f"{side}_architecture": arch for side, arch in architectures.items()})
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
        shapes = _abstract_params(build.encoder(config, facts, side), inputs)
        _check_own_width(config, side, arch, folder)
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
        notes += _unused_note(folder, left)
    name = ", ".join(f"config.{side}.path={config[side].path}" for side in sides)
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


def _check_own_width(config: Config, side: str, arch: Architecture, folder: Path) -> None:
    """Raises UserError if SigLIP's own summary of images, which has no projection, is of another width."""
    if side == "image" and config.image.pooling == "siglip" and arch["width"] != config.dim:
        raise UserError(f"config.dim={config.dim}: the images' own summary in {folder} is of {arch['width']}")


def _unused_note(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    return (f"{folder}: not used: {listed(names)}",) if names else ()


def _read_architecture(config: Config, side: str, folder: Path) -> Architecture:
    """The architecture of a directory's encoder, and of images how they are brought to its size."""
    arch = hf.read_architecture(side, read_description(folder), str(description_file(folder)))
    if side == "image":
        arch |= read_preprocessor(folder, config.image.size)
    return ConfigDict(arch).lock()


def _encoder_tokenizer(config: Config, facts: Facts, folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(folder)
    arch = facts.text_architecture
    if len(tokenizer) > arch.vocab:
        raise UserError(f"{folder}: a tokenizer of {len(tokenizer):,} ids, but {arch.vocab:,} words")
    if config.text.pooling == "siglip" and config.data.max_words != arch.positions:
        raise UserError(
            f"config.data.max_words={config.data.max_words}: {folder} pads every text to"
            f" {arch.positions}, and its summary is the last position (config.text.pooling='siglip')"
        )
    if config.data.max_words > arch.positions:
        raise UserError(
            f"config.data.max_words={config.data.max_words}: {folder} has {arch.positions} positions"
        )
    return tokenizer


def _abstract_params(module: Any, inputs: Any) -> Mapping[str, Any]:
    """The shapes and types of a module's parameters, by path."""
    shapes: Any = jax.eval_shape(module.init, jax.random.key(0), inputs)["params"]
    return flatten_dict(shapes, sep="/")
