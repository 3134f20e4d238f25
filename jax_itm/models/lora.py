"""LoRA: low-rank adapters of an encoder's kernels (Hu et al., "LoRA", ICLR 2022).

    W' = W + alpha / rank  A B

The adapters of an encoder are parameters of their own, `lora/PATH/down` (A, into `rank` numbers) and
`lora/PATH/up` (B), for each kernel PATH that has one; W itself stays as it is. B starts as zeros, so that a
new run computes exactly what it starts from.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_itm.errors import UserError
from jax_itm.types import Array, Params, PRNGKeyArray

ADAPTERS = "lora"  # their place among an encoder's parameters
BACKBONE = "backbone"  # the submodule of an encoder, in parameter paths
KERNEL_OF_BACKBONE = f"^{BACKBONE}/.*/kernel$"


class Lora(NamedTuple):
    """Which kernels of an encoder have adapters, and of what size.

    Attributes:
        on: patterns of the paths of kernels in the encoder's backbone; what stands on it learns by itself.
        rank: of the product A B.
        alpha: the product is multiplied by `alpha / rank`.
        field: of the config that says so, for errors.
    """

    on: tuple[str, ...]
    rank: int
    alpha: float
    field: str = "lora"


def init_adapters(rng: PRNGKeyArray, params: Params, lora: Lora) -> Params:
    """The adapters of an encoder with these parameters, as a tree: A normal, of variance 1 / inputs, B zero.

    Raises:
        UserError: a pattern matches no kernel of the encoder's backbone, or it has none.
    """
    flat: Any = flatten_dict(params, sep="/")
    kernels = {path: x for path, x in flat.items() if re.search(KERNEL_OF_BACKBONE, path)}
    for pattern in lora.on:
        if not any(re.search(pattern, path) for path in kernels):
            example = f", such as {min(kernels)!r}" if kernels else ""
            raise UserError(f"{lora.field}.on: {pattern!r} matches no kernel of the backbone{example}")
    chosen = [path for path in sorted(kernels) if any(re.search(pattern, path) for pattern in lora.on)]
    adapters = {}
    for number, path in enumerate(chosen):
        inputs, outputs = _sides(path, kernels[path].shape)
        draws = jax.random.normal(jax.random.fold_in(rng, number), (*inputs, lora.rank))
        adapters[f"{path.removesuffix('/kernel')}/down"] = draws / math.sqrt(math.prod(inputs))
        adapters[f"{path.removesuffix('/kernel')}/up"] = jnp.zeros((lora.rank, *outputs))
    return unflatten_dict(adapters, sep="/")


def apply_adapters(params: Params, lora: Lora | None) -> Params:
    """An encoder's parameters with its adapters merged into the kernels, and without the adapters.

    The backbone itself has no gradient; adapters and what stands on the backbone have theirs.
    """
    if lora is None:
        return params
    kernels: Any = flatten_dict({name: x for name, x in params.items() if name != ADAPTERS}, sep="/")
    kernels = {
        path: jax.lax.stop_gradient(x) if path.startswith(f"{BACKBONE}/") else x
        for path, x in kernels.items()
    }
    for path, change in _changes(params[ADAPTERS], lora).items():
        kernels[path] = kernels[path] + change
    return unflatten_dict(kernels, sep="/")


def _changes(adapters: Params, lora: Lora) -> Mapping[str, Array]:
    """What the adapters add to each kernel."""
    flat: Any = flatten_dict(adapters, sep="/")
    modules = [path.removesuffix("/down") for path in flat if path.endswith("/down")]
    product = lambda module: jnp.tensordot(flat[f"{module}/down"], flat[f"{module}/up"], 1)
    return {f"{module}/kernel": lora.alpha / lora.rank * product(module) for module in modules}


def _sides(path: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of a kernel's inputs and of its outputs; an attention's output takes its heads' two axes."""
    if len(shape) == 3 and path.endswith("/out/kernel"):
        return shape[:2], shape[2:]
    inputs = max(1, len(shape) - 1) if len(shape) == 4 else 1  # a convolution: window and channels
    return shape[:inputs], shape[inputs:]
