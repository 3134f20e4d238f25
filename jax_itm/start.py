"""What `config.start` names: the parameters and the tokenizer that a new run starts from.

Another run (a converted one, too) gives all parameters. A BERT directory, as the transformers library
saves one, gives UNITER its words, positions, layers and pooler, as UNITER's own pretraining was started;
the regions' parts and the score's head keep their random values.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_itm.checkpoint import found
from jax_itm.data.readers import read_text
from jax_itm.data.text import Tokenizer
from jax_itm.infer import load
from jax_itm.models.pretrained import bert, read_state
from jax_itm.types import NamedTuple, Params, UserError

FILES = ("config.json", "vocab.txt", "model.safetensors")  # of a BERT directory


class Start(NamedTuple):
    """Parameters by path, all or some, and the tokenizer whose ids they know."""

    where: str
    params: dict[str, Any]
    whole: bool
    tokenizer: Tokenizer


def open_start(config) -> Start | None:
    """Reads what `config.start` names; None where it names nothing.

    Raises:
        UserError: neither a run nor a BERT directory, or a BERT that is not of the method's sizes.
    """
    where = config.start
    if not where:
        return None
    if found(where):
        run = load(where)
        return Start(where, flatten_dict(run.params, sep="/"), True, run.tokenizer)
    folder = Path(where)
    missing = [name for name in FILES if not (folder / name).exists()]
    if missing:
        raise UserError(f"config.start={where}: no run, and no BERT directory either: no {missing[0]} there")
    if config.method.name != "iais":
        raise UserError(f"config.start={where}: a BERT directory starts the method iais alone")
    described = _json(folder / "config.json")
    _check_sizes(described, config.method, where)
    # tokenizer_config.json may be absent or silent: uncased then, as BERT's own default is.
    said = folder / "tokenizer_config.json"
    lower = (_json(said) if said.exists() else {}).get("do_lower_case", True)
    tokenizer = Tokenizer.from_vocab(str(folder / "vocab.txt"), lower)
    state = read_state(str(folder / "model.safetensors"))
    return Start(where, bert(state, config.method.layers, where), False, tokenizer)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(read_text(path)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a table in JSON ({error})") from error


def _check_sizes(described: dict[str, Any], method, where: str) -> None:
    wanted = {
        "model_type": "bert",
        "hidden_size": method.hidden,
        "num_attention_heads": method.heads,
        "intermediate_size": 4 * method.hidden,
        "hidden_act": "gelu",
    }
    for name, value in wanted.items():
        if described.get(name) != value:
            raise UserError(
                f"config.start={where}: config.json has {name} {described.get(name)!r}, config.method needs"
                f" {value!r}"
            )
    if described.get("num_hidden_layers", 0) < method.layers:
        raise UserError(
            f"config.method.layers={method.layers}: {where} has {described.get('num_hidden_layers')}"
        )


def started(params: Params, start: Start) -> Params:
    """`params` with the values that `start` has.

    A position table that is longer than the model's loses its end.

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
        if theirs is not None and ours is not None and name.startswith("position/"):
            theirs = theirs[: len(ours)]
        shapes = ["absent" if x is None else str(x.shape) for x in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise UserError(f"config.start={start.where}: {name} is {shapes[0]} there, {shapes[1]} here")
        made[name] = jnp.asarray(theirs, jnp.float32)
    return unflatten_dict(made, sep="/")
