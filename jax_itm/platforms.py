"""What differs between platforms: the specifications of accelerators, and the precision of products.

By default, a TPU multiplies float32 matrices in a single bfloat16 pass (8 bits of mantissa) and a GPU in TF32
(11 bits). Every product that decides a score, a rank or a statistic sets its precision.
"""

from typing import Any, NamedTuple

import jax
from jax import lax

from jax_itm.types import Array

FULL = lax.Precision.HIGHEST  # float32 on every platform


class ProductType(NamedTuple):
    """How a product of float32 arrays is taken; sums are float32 always.

    Attributes:
        cast: the type of its factors; None leaves them as they are.
        precision: of the product.
    """

    cast: Any
    precision: lax.Precision


# By the names of `Plan.dtype`. HIGH is TF32 on GPUs and three bfloat16 passes on TPUs; on CPUs it is float32.
PRODUCT_TYPES = {
    "float32": ProductType(None, FULL),
    "tf32": ProductType(None, lax.Precision.HIGH),
    "bfloat16": ProductType(jax.numpy.bfloat16, lax.Precision.DEFAULT),
}


class Chip(NamedTuple):
    """A generation of accelerators.

    Attributes:
        kind: as JAX names its devices.
        memory: of a device, in GiB, as much as a program may use.
        clock: of the cores, in GHz; 0 where the compiler estimates no cycles, as for GPUs.
    """

    kind: str
    memory: float
    clock: float


# Memory as the compiler allows it, clocks as published.
CHIPS = {
    "v4": Chip("TPU v4", 31.25, 1.05),
    "v5e": Chip("TPU v5 lite", 15.75, 1.5),
    "v5p": Chip("TPU v5", 95.0, 1.75),
    "v6e": Chip("TPU v6 lite", 31.25, 1.75),
    "h100": Chip("NVIDIA H100 80GB HBM3", 79.0, 0.0),
}
SMALLEST_MEMORY = 15.75  # in GiB, of an accelerator that is not in the table


def platform() -> str:
    """The platform of the mesh that is set, "cpu", "gpu" or "tpu"; without a mesh, of JAX's default device.

    A program may be compiled for devices that this machine does not have: then only the mesh knows.
    """
    name = _device().platform
    return "gpu" if name in ("cuda", "rocm") else name


def _device() -> Any:
    """A device of the mesh that is set, or JAX's default one; it has a `platform` and a `device_kind`."""
    mesh = jax.sharding.get_abstract_mesh()
    return (None if mesh.empty else mesh.abstract_device) or jax.devices()[0]


def is_cpu() -> bool:
    """Whether the program will run on CPUs."""
    return platform() == "cpu"


def is_one_cpu() -> bool:
    """Whether the program will run on a single CPU device, so that rows may be reordered freely.

    Without a mesh, arrays may be split over any of JAX's devices: there must be no other.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return is_cpu() and (len(jax.devices()) if mesh.empty else mesh.size) == 1


def device_memory() -> float:
    """Bytes of memory that a program may use on a device of the mesh that is set, an accelerator's."""
    kind = _device().device_kind
    known = (chip.memory for chip in CHIPS.values() if chip.kind == kind)
    return next(known, SMALLEST_MEMORY) * 2**30


def full_product(a: Array, b: Array) -> Array:
    """`a @ b` in float32 on every platform."""
    return jax.numpy.matmul(a, b, precision=FULL)
