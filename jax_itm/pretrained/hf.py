"""Towers as Hugging Face's libraries save them: config.json described, and every weight's place.

Which name is which: `families.py`. PyTorch's kernels are (out, in) and (out, in, h, w), Flax's (in, out)
and (h, w, in, out).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_itm.errors import UserError, listed
from jax_itm.pretrained.hf_families import FAMILIES, Family
from jax_itm.types import Config

MOST = {"layers": 1000, "depths": 1000, "": 2**24}  # of a field; what is beyond is no tower, but a trap

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}


def described(side: str, said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config.json as the `arch` of a config: the tower's fields, and its `kind`.

    Args:
        side: "image" or "text".
        said: what the config.json says.
        where: the file, for errors.

    Raises:
        UserError: there is no such tower here, or it has a part that the tower here has not.
    """
    kind = said.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES[side]:
        known = ", ".join(FAMILIES[side])
        raise UserError(f"{where}: model_type {kind!r} is no {side} tower here; there are {known}")
    family = FAMILIES[side][kind]
    said = said.get(family.section, said)
    if not isinstance(said, Mapping):
        raise UserError(f"{where}: has {family.section} {said!r}, must be a table")
    for name, value in family.needs.items():
        if said.get(name, value) != value:
            raise UserError(f"{where}: has {name} {said[name]!r}, the tower here needs {value!r}")
    arch = {name: said.get(theirs, default) for name, (theirs, default) in family.fields.items()}
    for name, (theirs, default) in family.fields.items():
        pair = type(arch[name]), type(default)
        if pair in ((list, tuple), (int, float)):  # as JSON writes tuples, and whole floats
            arch[name] = type(default)(arch[name])
        if not isinstance(arch[name], type(default)):
            raise UserError(f"{where}: has {theirs} {arch[name]!r}, not as {default!r}")
        _check_numbers(name, theirs, arch[name], default, where)
    _check_heads(arch, family, where)
    if arch["act"] not in ACTIVATIONS:
        raise UserError(f"{where}: has hidden_act {arch['act']!r}; known are {', '.join(ACTIVATIONS)}")
    if family.fields.get("mlp", ("",))[0] == "mlp_ratio":
        arch["mlp"] = int(arch["mlp"] * arch["width"])
    return {"kind": kind, **arch, "act": ACTIVATIONS[arch["act"]], **family.fixed}


def _check_numbers(name: str, theirs: str, value: Any, default: Any, where: str) -> None:
    least, most = 0 if name == "registers" else 1, MOST.get(name, MOST[""])
    for number in value if isinstance(default, tuple) else (value,):
        whole = isinstance(default, int | tuple) and not isinstance(default, bool)
        if whole and (type(number) is not int or not least <= number <= most):
            raise UserError(f"{where}: has {theirs} {value!r}, must be whole and {least} to {most:,}")
        if isinstance(default, float) and not 0 < number < most:  # False for NaN, too
            raise UserError(f"{where}: has {theirs} {value!r}, must be above 0 and below {most:,}")


def _check_heads(arch: Config, family: Family, where: str) -> None:
    width, heads, depths = arch["width"], arch["heads"], arch.get("depths")
    stages = heads if depths else (heads,)
    names = [family.fields[name][0] for name in ("width", "heads")]
    if any(width * 2**k % count for k, count in enumerate(stages)):
        raise UserError(f"{where}: {names[0]} {width} is not whole heads of {names[1]} {heads}")
    if depths and len(depths) != len(heads):
        raise UserError(f"{where}: depths {depths} and num_heads {heads} are not of as many stages")


def values(
    side: str,
    arch: Config,
    state: Mapping[str, np.ndarray],
    like: Mapping[str, Any],
    where: str,
    projected: bool = False,
) -> dict[str, np.ndarray]:
    """An encoder's parameters from published weights: {path: float32 array}, every one exactly once.

    Args:
        side: "image" or "text".
        arch: what `described` gave.
        state: the weights by their published names.
        like: the encoder's abstract parameters by path.
        where: the file, for errors.
        projected: whether CLIP's own projection is asked for, beside the tower.

    Raises:
        UserError: names the weights that are missing, left over, of another shape, or not finite.
    """
    family = FAMILIES[side][arch["kind"]]
    paths = {theirs: f"tower/{ours}" for theirs, ours in family.names(arch).items()}
    unused = family.unused
    if projected and not family.projection:
        raise UserError(f"config.{side}.pooling='clip': {where} has no projection of its own")
    if projected:
        paths[family.projection] = "project/kernel"
    elif family.projection:
        unused += (family.projection,)
    bare = {name.removeprefix(family.prefix): value for name, value in state.items()}
    bare = {name: value for name, value in bare.items() if not name.startswith(unused)}
    parts = []
    if missing := paths.keys() - bare.keys():
        parts.append(f"lacks {listed(missing)}")
    if strange := bare.keys() - paths.keys():
        parts.append(f"has {listed(strange)}, which the tower has not")
    if parts:
        raise UserError(f"{where}: {'; '.join(parts)}")
    wrong, found = [], {}
    for name, path in paths.items():
        value, shape = bare[name], like[path].shape
        wanted = published_shape(path, shape)
        if _bare(value.shape) != _bare(wanted):
            why = " (config.dim)" if path == "project/kernel" else ""
            wrong.append(f"{name} is {value.shape}, not {wanted}{why}")
        elif value.dtype.kind not in "fV" or not np.isfinite(value.astype(np.float32)).all():
            wrong.append(f"{name} holds other than finite real numbers")
        else:
            found[path] = _turned(path, np.asarray(value, np.float32)).reshape(shape)
    if wrong:
        raise UserError(f"{where}: {listed(wrong)}")
    return found


def published_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the weights of a parameter of `shape` are published in."""
    if path.endswith("/out/kernel"):  # (heads, size, d)
        return shape[2], shape[0] * shape[1]
    if path.endswith("/kernel"):  # (in, out), (d, heads, size) or a convolution's
        return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else (int(np.prod(shape[1:])), shape[0])
    return (int(np.prod(shape)),) if path.endswith("/bias") else shape


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the ones before: a class token is published as (1, 1, d) or as (d,)."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _turned(path: str, value: np.ndarray) -> np.ndarray:
    if not path.endswith("/kernel"):
        return value
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
