"""Initial parameters of a new run: from a run, a BERT directory, pretrained encoders, or random.

`config.start` names another run (a converted one, too), which gives all parameters, or a BERT directory as
the transformers library saves one, which gives UNITER its words, positions, layers and pooler, as UNITER's
own pretraining was started; the regions' parts and the score's head keep their random values. Without it,
`config.image.path` and `config.text.path` give pretrained encoders the parameters of their backbones.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from jax_itm.checkpoint.checkpoints import has_checkpoint
from jax_itm.config import Facts
from jax_itm.data.sources.raw import read_table
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.inference.matcher import load
from jax_itm.methods import merge_adapters
from jax_itm.methods.example import example_batch
from jax_itm.models import build
from jax_itm.pretrained.files import DESCRIPTION, read_weights
from jax_itm.pretrained.hf_families import FAMILIES
from jax_itm.pretrained.mapper import Weights, map_weights, unused_weights
from jax_itm.train.encoder_start import abstract_params, read_encoders, unused_note
from jax_itm.train.start_rules import Source
from jax_itm.types import SIDES, Config

BERT_FILES = (DESCRIPTION, "vocab.txt")  # of a BERT directory


def read_source(config: Config, facts: Facts = Facts()) -> Source | None:  # noqa: B008
    """Reads what `config` starts from; None if that is nothing.

    Its facts are `facts`, those of the data, completed by the architectures of pretrained encoders.

    Raises:
        UserError: neither a run nor a BERT directory, a BERT of other sizes than the model's, or a pretrained
            encoder that is missing, unknown or damaged.
    """
    if not config.start and "matcher" in config and config.matcher.frozen:
        raise UserError("config.start: name the dual encoder's run whose tokens the matcher takes")
    if not config.start:
        return read_encoders(config, facts)
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
    facts = run.facts._replace(region_dim=facts.region_dim, data=facts.data)
    params = flatten_dict(merge_adapters(run.params, run.config), sep="/")
    if "matcher" in config and "head" in run.config:
        return Source(name, _encoders_of(config, run.config, params), False, run.tokenizer, facts)
    return Source(name, params, True, run.tokenizer, facts)


def _encoders_of(config: Config, dual: Config, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a dual encoder's two encoders, for a matcher on their tokens.

    Raises:
        UserError: it has a head, whose tokens are not its encoders' own, or encoders of another kind.
    """
    name = f"config.start={config.start}"
    if dual.head.name != "none":
        raise UserError(f"{name}: has the head {dual.head.name!r}; a matcher takes the tokens of encoders")
    for field in ("dim", "image.name", "text.name"):
        section, _, key = field.rpartition(".")
        ours, theirs = ((each[section] if section else each)[key] for each in (config, dual))
        if ours != theirs:
            raise UserError(f"config.{field}={ours!r}: {name} has {theirs!r}")
    return {path: value for path, value in params.items() if path.startswith(("image/", "text/"))}


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
    shapes = abstract_params(build.uniter(config, facts), example_batch(config, facts))
    weights = Weights(read_weights(folder), str(folder))
    family = FAMILIES["pair"]["bert"]
    arch = {"layers": config.uniter.layers}
    params = map_weights(family, arch, weights, shapes)
    unused = unused_weights(family, arch, weights.arrays)
    return Source(name, params, False, tokenizer, facts, unused_note(folder, unused))


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
