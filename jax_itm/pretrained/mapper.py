"""From published weights to parameters: the one mapper of all families.

Which name is which parameter: `text_families.py`, `image_families.py`. PyTorch's kernels are (out, in) and
(out, in, h, w), Flax's (in, out) and (h, w, in, out).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jax_itm.errors import UserError, listed
from jax_itm.pretrained.family import Family
from jax_itm.types import Architecture


class Weights(NamedTuple):
    """Published arrays.

    Attributes:
        arrays: by their published names.
        source: the file or directory that they are from, for errors.
    """

    arrays: Mapping[str, np.ndarray]
    source: str


def map_weights(
    family: Family, arch: Architecture, weights: Weights, shapes: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The parameters that a family's weights are: {path: float32 array}, every one exactly once.

    Args:
        family: whose names the weights have.
        arch: of the model, for `family.names`.
        weights: to map.
        shapes: the model's abstract parameters by path.

    Raises:
        UserError: names the weights that are missing, left over, of another shape, or not finite.
    """
    names = family.names(arch)
    weights = select_weights(family, names, weights)
    parameters = {}
    problems = []
    for name, path in names.items():
        value = weights.arrays[name]
        shape = shapes[path].shape
        may_be_cut = path in family.cut and value.ndim
        shape_in_file = (max(shape[0], len(value)), *shape[1:]) if may_be_cut else shape
        if problem := _problem(path, value, shape_in_file):
            problems.append(f"{name} {problem}")
        else:
            array = _to_flax(path, np.asarray(value, np.float32)).reshape(shape_in_file)
            parameters[path] = array[: shape[0]]
    if problems:
        raise UserError(f"{weights.source}: {listed(problems)}")
    return parameters


def select_weights(family: Family, names: Mapping[str, str], weights: Weights) -> Weights:
    """The weights of `names` without the family's prefix and without what is unused.

    Raises:
        UserError: names are missing, or there are some that the model has not.
    """
    arrays = {name.removeprefix(family.prefix): value for name, value in weights.arrays.items()}
    arrays = {name: x for name, x in arrays.items() if name in names or not name.startswith(family.unused)}
    problems = []
    if missing := names.keys() - arrays.keys():
        problems.append(f"lacks {listed(missing)}")
    if unknown := arrays.keys() - names.keys():
        problems.append(f"has {listed(unknown)}, which the model here has not")
    if problems:
        raise UserError(f"{weights.source}: {'; '.join(problems)}")
    return weights._replace(arrays=arrays)


def unused_weights(family: Family, arch: Architecture, published: Iterable[str]) -> list[str]:
    """Those of the published names of whose weights no parameter is made."""
    used = family.names(arch)
    return [name for name in published if name.removeprefix(family.prefix) not in used]


def split_attention(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with PyTorch's joint `in_proj_weight` and `in_proj_bias` as q_proj's, k_proj's and v_proj's."""
    separate = {}
    for name, value in arrays.items():
        joint = re.fullmatch(r"(.*)\.in_proj_(weight|bias)", name)
        if not joint or not value.ndim or len(value) % 3:
            separate[name] = value
            continue
        for part, third in zip("qkv", np.split(value, 3), strict=True):
            separate[f"{joint[1]}.{part}_proj.{joint[2]}"] = third
    return separate


def join_attention(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The reverse of `split_attention`, for the attention pooling, which PyTorch holds as one array."""
    joined: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        part = re.fullmatch(r"(.*head\.attention)\.([qkv])_proj\.(weight|bias)", name)
        if not part:
            joined[name] = value
        elif part[2] == "q":
            names = [f"{part[1]}.{x}_proj.{part[3]}" for x in "qkv"]
            joined[f"{part[1]}.in_proj_{part[3]}"] = np.concatenate([arrays[x] for x in names])
    return joined


def to_published(name: str, path: str, value: np.ndarray) -> np.ndarray:
    """A parameter as it is published: the reverse of `map_weights`."""
    shape = published_shape(path, value.shape)
    if path.endswith("/kernel"):
        inputs = int(np.prod(shape[1:]))
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.reshape(inputs, -1).T
    value = value.reshape(shape)
    # CLIP and SigLIP publish these without the axis of the batch.
    if name.endswith("position_embedding.weight"):
        return value.reshape(value.shape[-2:])
    return value.reshape(-1) if name.endswith("class_embedding") else value


def published_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which the weights of a parameter of `shape` are published."""
    if path.endswith("/out/kernel") and len(shape) == 3:  # of an attention: (heads, size, d)
        return shape[2], shape[0] * shape[1]
    if path.endswith("/kernel"):  # (in, out), (d, heads, size) or a convolution's
        return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else (int(np.prod(shape[1:])), shape[0])
    return (int(np.prod(shape)),) if path.endswith("/bias") else shape


def _problem(path: str, value: np.ndarray, shape: tuple[int, ...]) -> str:
    """What is wrong with a published array; "" if nothing is."""
    expected = published_shape(path, shape)
    if _squeeze(value.shape) != _squeeze(expected):
        hint = " (config.dim)" if path == "projection/linear/kernel" else ""
        return f"is {value.shape}, not {expected}{hint}"
    is_float = value.dtype.kind in "fV"  # V: bfloat16 and other types that numpy itself does not know
    if not is_float or not np.isfinite(value.astype(np.float32)).all():
        return "holds other than finite real numbers"
    return ""


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without leading ones: a class token is published as (1, 1, d) or as (d,)."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _to_flax(path: str, value: np.ndarray) -> np.ndarray:
    if not path.endswith("/kernel"):
        return value
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
