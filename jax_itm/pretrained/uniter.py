"""UNITER's published weights; the model's sizes follow from their shapes.

The names are those of the authors' code (github.com/ChenRocks/UNITER), which IAIS (github.com/lancopku/IAIS)
keeps: a plain state dict, neither nested nor with a prefix. Which name is which: `text_families.py`.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_itm.errors import UserError, listed
from jax_itm.pretrained.mapper import Weights, map_weights, select_weights
from jax_itm.pretrained.text_families import UNITER
from jax_itm.types import Params

HEAD_SIZE = 64  # of an attention head in base and large; the weights do not tell


class Sizes(NamedTuple):
    """What the weights' shapes tell of the model; `heads` is a guess, 0 where there is none."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    vocab: int
    positions: int
    region_dim: int


class Published(NamedTuple):
    """A state dict whose names are all known.

    Attributes:
        weights: by the names of a fine-tuned matcher, `rank_output` among them.
        sizes: of the model.
        tuned: whether the score's head was there; otherwise it is made of pretraining's `itm_output`.
        unused: names that matching does not need.
    """

    weights: Weights
    sizes: Sizes
    tuned: bool
    unused: list[str]


def read_uniter(state: Mapping[str, np.ndarray], source: str) -> Published:
    """Recognises UNITER in a state dict from the file `source`.

    Raises:
        UserError: names every array that is missing or that nothing needs.
    """
    tuned = any(name.startswith("rank_output.") for name in state)
    arrays = dict(state) if tuned else _with_score_head(state, source)
    layers = {match[1] for name in state if (match := re.match(r"uniter\.encoder\.layer\.(\d+)\.", name))}
    arch = {"layers": max(len(layers), 1)}
    weights = select_weights(UNITER, UNITER.names(arch), Weights(arrays, source))
    unused = [name for name in arrays if name.startswith(UNITER.unused)]
    return Published(weights, _sizes(weights, len(layers)), tuned, unused)


def _with_score_head(state: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """The arrays of pretraining with a `rank_output`: row 1, "matched", of its `itm_output`.

    That is what the authors' code starts fine-tuning from.
    """
    arrays = dict(state)
    for leaf in ("weight", "bias"):
        array = arrays.pop(f"itm_output.{leaf}", None)
        if array is None:
            raise UserError(f"{source}: lacks rank_output.{leaf}, and itm_output.{leaf} to make it of")
        if not array.ndim or len(array) != 2:
            raise UserError(
                f"{source}: itm_output.{leaf} is {array.shape}, not {(2, *array.shape[1:])}: a row each for"
                " pairs that match and that do not"
            )
        arrays[f"rank_output.{leaf}"] = array[1:2]
    return arrays


def _sizes(weights: Weights, layers: int) -> Sizes:
    shapes = []
    for name in ("embeddings.word_embeddings", "embeddings.position_embeddings", "img_embeddings.img_linear"):
        shape = weights.arrays[f"uniter.{name}.weight"].shape
        if len(shape) != 2:
            raise UserError(f"{weights.source}: uniter.{name}.weight is {shape}, not a matrix")
        shapes.append(shape)
    (vocab, hidden), (positions, _), (_, region_dim) = shapes
    mlp = len(weights.arrays["uniter.encoder.layer.0.intermediate.dense.bias"])
    heads = 0 if hidden % HEAD_SIZE else hidden // HEAD_SIZE
    return Sizes(hidden, mlp, layers, heads, vocab, positions, region_dim)


def uniter_parameters(published: Published, shapes: Params) -> Params:
    """The parameters of a `Uniter`; a position table longer than the model's loses its end.

    Args:
        published: what `read_uniter` returned.
        shapes: the abstract parameters of the model.

    Raises:
        UserError: names every array of another shape, of other than real numbers, or with one that is not
            finite; or parameters of the model that UNITER has not.
    """
    flat: Any = flatten_dict(shapes, sep="/")
    arch = published.sizes._asdict()
    if extra := flat.keys() - set(UNITER.names(arch).values()):
        raise UserError(
            f"config.uniter: its model also has {listed(extra)}, which {published.weights.source} has not"
        )
    return unflatten_dict(map_weights(UNITER, arch, published.weights, flat), sep="/")
