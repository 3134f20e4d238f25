"""Reads encoders in Hugging Face's format: their architecture, and their weights as parameters.

Which name is which: `text_families.py`, `image_families.py`.
"""

from collections.abc import Mapping
from typing import Any

from jax_itm.errors import UserError
from jax_itm.pretrained.family import Family
from jax_itm.pretrained.hf_families import FAMILIES
from jax_itm.types import Architecture

# The largest value of a field; a file that says more describes no encoder, but would fill the memory.
LARGEST = {"layers": 1000, "depths": 1000}
LARGEST_OTHER = 2**24

OWN_POOLINGS = ("clip", "siglip")  # of `config.image.pooling`: a family's own summary

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}


def read_architecture(side: str, description: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The fields of the encoder that a config.json describes, and its `kind`: `Facts.architecture` of a run.

    Args:
        side: "image" or "text".
        description: what the config.json says.
        source: the file, for errors.

    Raises:
        UserError: there is no such encoder here, or it has a part that the encoder here has not.
    """
    kind = description.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES[side]:
        known = ", ".join(FAMILIES[side])
        raise UserError(f"{source}: model_type {kind!r} is no {side} encoder here; there are {known}")
    family = FAMILIES[side][kind]
    description = description.get(family.section, description)
    if not isinstance(description, Mapping):
        raise UserError(f"{source}: has {family.section} {description!r}, must be a table")
    for name, value in family.needs.items():
        if description.get(name, value) != value:
            raise UserError(f"{source}: has {name} {description[name]!r}, the encoder here needs {value!r}")
    arch = {
        ours: _read_field(ours, published, description.get(published, default), default, source)
        for ours, (published, default) in family.fields.items()
    }
    _check_heads(arch, family, source)
    if arch["act"] not in ACTIVATIONS:
        raise UserError(f"{source}: has hidden_act {arch['act']!r}; known are {', '.join(ACTIVATIONS)}")
    if family.fields.get("mlp", ("",))[0] == "mlp_ratio":
        arch["mlp"] = int(arch["mlp"] * arch["width"])
    return {"kind": kind, **arch, "act": ACTIVATIONS[arch["act"]], **family.fixed}


def _read_field(ours: str, published: str, value: Any, default: Any, source: str) -> Any:
    """The value of a field, checked against its default's type and its range."""
    if (type(value), type(default)) in ((list, tuple), (int, float)):  # JSON has neither tuples nor 1.0
        value = type(default)(value)
    if not isinstance(value, type(default)):
        raise UserError(f"{source}: has {published} {value!r}, not as {default!r}")
    least = 0 if ours == "registers" else 1
    most = LARGEST.get(ours, LARGEST_OTHER)
    is_count = isinstance(default, int | tuple) and not isinstance(default, bool)
    for number in value if isinstance(default, tuple) else (value,):
        if is_count and (type(number) is not int or not least <= number <= most):
            raise UserError(f"{source}: has {published} {value!r}, must be whole and {least} to {most:,}")
        if isinstance(default, float) and not 0 < number < most:  # False for NaN, too
            raise UserError(f"{source}: has {published} {value!r}, must be above 0 and below {most:,}")
    return value


def _check_heads(arch: Architecture, family: Family, source: str) -> None:
    width = arch["width"]
    heads = arch["heads"]
    depths = arch.get("depths")
    stages = heads if depths else (heads,)
    names = [family.fields[name][0] for name in ("width", "heads")]
    if any(width * 2**k % count for k, count in enumerate(stages)):
        raise UserError(f"{source}: {names[0]} {width} is not whole heads of {names[1]} {heads}")
    if depths and len(depths) != len(heads):
        raise UserError(f"{source}: depths {depths} and num_heads {heads} are not of as many stages")


def encoder_family(side: str, arch: Architecture, pooling: str, source: str) -> Family:
    """The names of a `BackboneEncoder`'s weights.

    Args:
        side: "image" or "text".
        arch: what `read_architecture` returned.
        pooling: of the encoder, `config.image.pooling`; a family's own needs more weights than the backbone.
        source: the directory, for errors.

    Raises:
        UserError: the pooling is another family's own.
    """
    family = FAMILIES[side][arch["kind"]]
    names = {name: f"backbone/{path}" for name, path in family.names(arch).items()}
    unused = family.unused
    if pooling in OWN_POOLINGS and pooling != family.pooling:
        its_own = f"its own is {family.pooling!r}" if family.pooling else "it has no projection of its own"
        raise UserError(f"config.{side}.pooling={pooling!r}: {source} is a {arch['kind']}; {its_own}")
    if pooling == family.pooling:
        names |= family.own
    else:
        unused += tuple(family.own)
    return family._replace(names=lambda _: names, unused=unused)
