"""What a new run starts from: a run, a BERT directory, pretrained towers, or nothing but random values.

`config.start` names another run (a converted one, too), which gives all parameters, or a BERT directory, as
the transformers library saves one, which gives UNITER its words, positions, layers and pooler, as UNITER's
own pretraining was started; the regions' parts and the score's head keep their random values. Else
`config.image.path` and `config.text.path` give pretrained towers their parameters.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from jax_itm.checkpoint.checkpoints import has_checkpoint
from jax_itm.data.sources.raw import read_table
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.inference.matcher import load
from jax_itm.inference.token_cache import SIDES
from jax_itm.methods.encoders import encoder, example_batch
from jax_itm.pretrained import hf
from jax_itm.pretrained.files import DESCRIPTION, WEIGHTS, find, read_weights
from jax_itm.pretrained.open_clip import described_in, description, weights
from jax_itm.pretrained.preprocessor import processor
from jax_itm.pretrained.uniter import bert
from jax_itm.types import Config, NamedTuple, Params

FILES = (DESCRIPTION, "vocab.txt", WEIGHTS)  # of a BERT directory


class Start(NamedTuple):
    """Parameters by path, all or some, and the tokenizer whose ids they know, if they know ids."""

    where: str  # the field and its value
    params: dict[str, Any]
    whole: bool
    tokenizer: Tokenizer | None


def open_start(config: Config) -> Start | None:
    """Reads what `config` starts from, and describes its towers; None where that is nothing.

    Raises:
        UserError: neither a run nor a BERT directory, a BERT that is not of the method's sizes, or a tower
            that is missing, unknown or damaged.
    """
    where = config.start
    if not where:
        return _open_towers(config)
    if has_checkpoint(where):
        run = load(where)
        keep_towers(config, run.config)
        return Start(f"config.start={where}", flatten_dict(run.params, sep="/"), True, run.tokenizer)
    folder = Path(where)
    missing = [name for name in FILES if not (folder / name).exists()]
    if missing:
        raise UserError(f"config.start={where}: no run, and no BERT directory either: no {missing[0]} there")
    if "uniter" not in config:
        raise UserError(f"config.start={where}: a BERT directory starts a cross-encoder alone")
    _check_sizes(read_table(folder / DESCRIPTION), config.uniter, where)
    params = bert(read_weights(folder), config.uniter.layers, where)
    return Start(f"config.start={where}", params, False, Tokenizer.from_vocab_folder(folder))


def keep_towers(config: Config, older: Config) -> None:
    """Describes the towers of `config` as those of a run that is gone on with or started from."""
    for side in SIDES:
        if config[side].name == "pretrained":
            with config.unlocked():
                config[side].arch = ConfigDict(older[side].arch)


def _open_towers(config: Config) -> Start | None:
    sides = [side for side in SIDES if config[side].name == "pretrained"]
    if not sides:
        return None
    folders = {side: find(config[side].path, f"config.{side}.path") for side in sides}
    for side, folder in folders.items():
        said = description(folder)
        with config.unlocked():
            config[side].arch = ConfigDict(hf.described(side, said, str(described_in(folder))))
            if side == "image":
                config.image.arch.update(processor(folder, config.image.size))
    tokenizer = _tower_tokenizer(config, folders["text"]) if "text" in sides else None
    params = {}
    for side, folder in folders.items():
        inputs = example_batch(config)[side]
        model = encoder(config, side, len(tokenizer or ()))
        shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
        like: Any = flatten_dict(shapes, sep="/")
        projected = config[side].pooling == "clip"
        values = hf.values(side, config[side].arch, weights(folder), like, str(folder), projected)
        params |= {f"{side}/{path}": value for path, value in values.items()}
    where = ", ".join(f"config.{side}.path={config[side].path}" for side in sides)
    return Start(where, params, False, tokenizer)


def _tower_tokenizer(config: Config, folder: Path) -> Tokenizer:
    tokenizer, arch = Tokenizer.from_folder(folder), config.text.arch
    if len(tokenizer) > arch.vocab:
        raise UserError(f"{folder}: a tokenizer of {len(tokenizer):,} ids, but {arch.vocab:,} words")
    if config.data.max_words > arch.positions:
        raise UserError(
            f"config.data.max_words={config.data.max_words}: {folder} has {arch.positions} positions"
        )
    return tokenizer


def _check_sizes(described: dict[str, Any], uniter: Config, where: str) -> None:
    wanted = {
        "model_type": "bert",
        "hidden_size": uniter.hidden,
        "num_attention_heads": uniter.heads,
        "intermediate_size": 4 * uniter.hidden,
        "hidden_act": "gelu",
    }
    for name, value in wanted.items():
        if described.get(name) != value:
            raise UserError(
                f"config.start={where}: config.json has {name} {described.get(name)!r}, config.uniter needs"
                f" {value!r}"
            )
    layers = described.get("num_hidden_layers", 0)
    if type(layers) is not int or layers < uniter.layers:
        raise UserError(f"config.uniter.layers={uniter.layers}: {where} has {layers!r}")


def started(params: Params, start: Start) -> Params:
    """`params` with the values that `start` has.

    A position table that is longer than the model's loses its end. A cross-encoder deeper than the run that
    it starts from grows (as in progressive stacking, Gong et al., ICML 2019): its further layers add nothing.

    Raises:
        UserError: a name or a shape differs; the first is named.
    """
    made: Any = flatten_dict(params, sep="/", keep_empty_nodes=True)
    here: Any = flatten_dict(params, sep="/")
    # Pretraining's head for words is of no use where no words are masked.
    unused = () if "word_head" in params else tuple(n for n in start.params if n.startswith("word_head/"))
    for name in sorted((here.keys() | start.params.keys()) - set(unused)):
        ours, theirs = here.get(name), start.params.get(name)
        if ours is not None and theirs is None and (not start.whole or name.startswith("word_head/")):
            continue
        if ours is not None and _is_grown(name, start):
            made[name] = jnp.zeros_like(ours) if "output/" in name or "mlp_out/" in name else ours
            continue
        if theirs is not None and ours is not None and name.startswith("position/"):
            theirs = theirs[: len(ours)]
        shapes = ["absent" if x is None else str(x.shape) for x in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise UserError(f"{start.where}: {name} is {shapes[0]} there, {shapes[1]} here")
        made[name] = jnp.asarray(theirs, jnp.float32)
    return unflatten_dict(made, sep="/")


def _is_grown(name: str, start: Start) -> bool:
    """Whether a parameter is of a layer beyond those of the run that is started from."""
    layer, found = name.split("/")[0], {path.split("/")[0] for path in start.params}
    return start.whole and layer.startswith("layer_") and "layer_0" in found and layer not in found
