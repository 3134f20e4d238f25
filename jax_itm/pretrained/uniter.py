"""Published weights of UNITER: their names in `uniter.Uniter`.

The names are those of the authors' code (github.com/ChenRocks/UNITER, `model/model.py`, `itm.py` and
`pretrain.py`), which IAIS (github.com/lancopku/IAIS) keeps: a plain state dict, neither nested nor with a
prefix. PyTorch's kernels are (out, in) and Flax's (in, out).
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_itm.errors import UserError, listed
from jax_itm.types import NamedTuple, Params

HEAD_SIZE = 64  # of an attention head, base and large; the weights do not tell

# What pretraining needs and matching does not: its heads, and the vector of a masked region.
UNUSED = ("cls.", "feat_regress.", "region_classifier.", "uniter.img_embeddings.mask_embedding.")

TABLES = {
    "word": "uniter.embeddings.word_embeddings",
    "position": "uniter.embeddings.position_embeddings",
    "token_type": "uniter.embeddings.token_type_embeddings",
}
NORMS = {
    "word_norm": "uniter.embeddings.LayerNorm",
    "img_layer_norm": "uniter.img_embeddings.img_layer_norm",
    "pos_layer_norm": "uniter.img_embeddings.pos_layer_norm",
    "img_norm": "uniter.img_embeddings.LayerNorm",
}
KERNELS = {
    "img_linear": "uniter.img_embeddings.img_linear",
    "pos_linear": "uniter.img_embeddings.pos_linear",
    "pooler": "uniter.pooler.dense",
}
LAYER_NORMS = {"output_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"}
LAYER_KERNELS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
}


class Sizes(NamedTuple):
    """What the weights' shapes tell of the model."""

    hidden: int
    layers: int
    heads: int
    vocab: int
    positions: int
    region_dim: int


class Published(NamedTuple):
    """A state dict whose names are all known."""

    state: Mapping[str, np.ndarray]
    paths: Mapping[str, str]  # of each name that is used, in `Uniter`'s parameters: "word_norm/scale"
    sizes: Sizes
    tuned: bool  # it has a rank_output, so itm_output's row is not needed
    unused: list[str]  # names


def uniter_paths(layers: int) -> dict[str, str]:
    """{published name: path in `Uniter`'s parameters} of all but the score's head."""
    norms, kernels = dict(NORMS), dict(KERNELS)
    for k in range(layers):
        for names, parts in ((norms, LAYER_NORMS), (kernels, LAYER_KERNELS)):
            names |= {f"layer_{k}/{a}": f"uniter.encoder.layer.{k}.{b}" for a, b in parts.items()}
    paths = {f"{theirs}.weight": f"{ours}/embedding" for ours, theirs in TABLES.items()}
    for names, leaf in ((norms, "scale"), (kernels, "kernel")):
        paths |= {f"{theirs}.weight": f"{ours}/{leaf}" for ours, theirs in names.items()}
        paths |= {f"{theirs}.bias": f"{ours}/bias" for ours, theirs in names.items()}
    return paths


def uniter(state: Mapping[str, np.ndarray], where: str) -> Published:
    """Finds UNITER in a state dict.

    The score's head is `rank_output` where there is one. Pretraining knows only `itm_output`, whose row 1,
    "matched", the authors make the first `rank_output` of.

    Raises:
        UserError: names every name that is missing or that nothing needs; `where` is the file.
    """
    layers = {match[1] for name in state if (match := re.match(r"uniter\.encoder\.layer\.(\d+)\.", name))}
    tuned = any(name.startswith("rank_output.") for name in state)
    head = "rank_output" if tuned else "itm_output"
    paths = uniter_paths(max(len(layers), 1))
    paths |= {f"{head}.weight": "rank_output/kernel", f"{head}.bias": "rank_output/bias"}
    unneeded = (*UNUSED, "itm_output.") if tuned else UNUSED
    unused = [name for name in state if name.startswith(unneeded)]
    missing = [name.replace("itm_", "rank_output or itm_") for name in paths.keys() - state.keys()]
    strange = state.keys() - paths.keys() - set(unused)
    if missing or strange:
        parts = [f"lacks {listed(missing)}"] * bool(missing)
        parts += [f"has {listed(strange)}, which UNITER's matcher has not"] * bool(strange)
        raise UserError(f"{where}: " + "; ".join(parts))
    return Published(state, paths, _sizes(state, len(layers), where), tuned, unused)


def _sizes(state: Mapping[str, np.ndarray], layers: int, where: str) -> Sizes:
    names = TABLES["word"], TABLES["position"], KERNELS["img_linear"]
    shapes = {f"{name}.weight": state[f"{name}.weight"].shape for name in names}
    for name, shape in shapes.items():
        if len(shape) != 2:
            raise UserError(f"{where}: {name} is {shape}, not a matrix")
    (vocab, hidden), (positions, _), (_, region_dim) = shapes.values()
    if not hidden or hidden % HEAD_SIZE:
        raise UserError(f"{where}: of width {hidden}, which is not whole heads of {HEAD_SIZE}")
    return Sizes(hidden, layers, hidden // HEAD_SIZE, vocab, positions, region_dim)


def bert(state: Mapping[str, np.ndarray], layers: int, where: str) -> dict[str, np.ndarray]:
    """What UNITER takes of a BERT: {path in `Uniter`'s parameters: array}, the first `layers` layers.

    Names are those of the transformers library, with or without its prefix "bert."; what else there is,
    such as heads of pretraining, stays unread.

    Raises:
        UserError: names are missing.
    """
    bare = {name.removeprefix("bert."): value for name, value in state.items()}
    paths = {
        theirs.removeprefix("uniter."): ours
        for theirs, ours in uniter_paths(layers).items()
        if "img_embeddings" not in theirs
    }
    if missing := paths.keys() - bare.keys():
        raise UserError(f"{where}: lacks {listed(missing)}")
    return {ours: _turned(theirs, ours, bare[theirs]) for theirs, ours in paths.items()}


def uniter_params(found: Published, like: Params, where: str) -> Params:
    """The parameters of `Uniter`, float32; a position table longer than the model's loses its end.

    Args:
        found: what `uniter` found.
        like: the abstract parameters of the model that they are for.
        where: the file, for errors.

    Raises:
        UserError: names every array of another shape, of other than real numbers, or with one that is not
            finite; or what the model has beside UNITER's parameters.
    """
    wanted: Any = flatten_dict(like, sep="/")
    if beside := wanted.keys() - set(found.paths.values()):
        raise UserError(f"config.uniter: its model also has {listed(beside)}, which {where} has not")
    wrong, params = [], {}
    for name, path in found.paths.items():
        value, shape = found.state[name], wanted[path].shape
        shape = shape[::-1] if path.endswith("/kernel") else shape
        if name.startswith("itm_output."):
            shape = (2, *shape[1:])
        if path == "position/embedding":
            shape = (max(shape[0], len(value)), *shape[1:])
        if value.shape != shape:
            wrong.append(f"{name} is {value.shape}, not {shape}")
        elif not jnp.issubdtype(value.dtype, jnp.floating) or not np.isfinite(value).all():
            wrong.append(f"{name} holds other than finite real numbers")
        else:
            params[path] = _turned(name, path, value)[: wanted[path].shape[0]]
    if wrong:
        raise UserError(f"{where}: {listed(wrong)}")
    return unflatten_dict(params, sep="/")


def _turned(name: str, path: str, value: np.ndarray) -> np.ndarray:
    value = value[1:2] if name.startswith("itm_output.") else value
    return np.array(value.T if path.endswith("/kernel") else value, np.float32, order="C")
