"""Rules by which a new run's parameters are taken from the run that it starts from."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_itm.config import Facts
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.models.lora import ADAPTERS
from jax_itm.types import Array, Params


class Source(NamedTuple):
    """Parameters to start from.

    Attributes:
        name: the field of the config and its value, for errors.
        params: by path.
        is_run: whether they are all parameters of a run; otherwise what is missing keeps its random values.
        tokenizer: with whose ids the parameters were trained; None if they take no ids.
        facts: of the new run, with the architectures that were read; the vocabulary is the tokenizer's.
        notes: what a user should know of the weights, such as which are not used; a line each.
    """

    name: str
    params: Mapping[str, Any]
    is_run: bool
    tokenizer: Tokenizer | None
    facts: Facts
    notes: tuple[str, ...] = ()


class Leaf(NamedTuple):
    """One parameter, in the new model and in the source.

    Attributes:
        path: of the parameter.
        random: its value in the new model; None if the model has no such parameter.
        source: its value in the source; None if the source has no such parameter.
        is_run: whether the source is a run.
        is_new_layer: whether it is of a layer beyond those of the run that is started from.
    """

    path: str
    random: Array | None
    source: Any
    is_run: bool
    is_new_layer: bool


class Rule(NamedTuple):
    """What happens to the parameters that `applies` to: `value`, or None to leave the parameter out."""

    applies: Callable[[Leaf], bool]
    value: Callable[[Leaf], Any]


def _is_word_head(leaf: Leaf) -> bool:
    return leaf.path.startswith("word_head/")


def _is_residual_output(leaf: Leaf) -> bool:
    return "/attention/out/" in leaf.path or "/mlp/out/" in leaf.path


def _is_longer_table(leaf: Leaf) -> bool:
    is_table = leaf.path.endswith("embeddings/positions/embedding")
    return is_table and leaf.random is not None and leaf.source is not None


def _is_adapter(leaf: Leaf) -> bool:
    return f"/{ADAPTERS}/" in leaf.path


# The first rule that applies decides; a parameter without one must have the same shape on both sides.
RULES = (
    # Pretraining's head for words is of no use to a run that masks none, and new to one that starts to.
    Rule(lambda leaf: _is_word_head(leaf) and leaf.random is None, lambda leaf: None),
    Rule(lambda leaf: _is_word_head(leaf) and leaf.source is None, lambda leaf: leaf.random),
    # A cross-encoder that is deeper than the run that it starts from grows, as in progressive stacking (Gong
    # et al., "Efficient Training of BERT by Progressively Stacking", ICML 2019): its new layers add nothing.
    Rule(
        lambda leaf: leaf.is_new_layer and _is_residual_output(leaf), lambda leaf: jnp.zeros_like(leaf.random)
    ),
    Rule(lambda leaf: leaf.is_new_layer, lambda leaf: leaf.random),
    # LoRA's adapters are new: those of the run that is started from are merged into its kernels.
    Rule(lambda leaf: _is_adapter(leaf) and leaf.source is None, lambda leaf: leaf.random),
    # What is no run gives some parameters; the others keep their random values.
    Rule(lambda leaf: not leaf.is_run and leaf.source is None, lambda leaf: leaf.random),
    # A position table that is longer than the model's loses its end.
    Rule(_is_longer_table, lambda leaf: leaf.source[: len(leaf.random)]),
)


def start_from(params: Params, source: Source) -> Params:
    """`params` with the values that `source` has, by `RULES`.

    Raises:
        UserError: a path or a shape differs; the first is named.
    """
    values: Any = flatten_dict(params, sep="/", keep_empty_nodes=True)
    random: Any = flatten_dict(params, sep="/")
    source_layers = {path.split("/")[0] for path in source.params}
    for path in sorted(random.keys() | source.params.keys()):
        is_new_layer = source.is_run and path in random and _is_beyond(path.split("/")[0], source_layers)
        leaf = Leaf(path, random.get(path), source.params.get(path), source.is_run, is_new_layer)
        rule = next((rule for rule in RULES if rule.applies(leaf)), None)
        value = rule.value(leaf) if rule else leaf.source
        if leaf.random is None and value is None:
            continue
        if _shape(value) != _shape(leaf.random):
            raise UserError(f"{source.name}: {path} is {_shape(value)} there, {_shape(leaf.random)} here")
        values[path] = jnp.asarray(value, jnp.float32)
    return unflatten_dict(values, sep="/")


def _is_beyond(module: str, source_layers: set[str]) -> bool:
    return module.startswith("layer_") and "layer_0" in source_layers and module not in source_layers


def _shape(value: Any) -> str:
    return "absent" if value is None else str(value.shape)
