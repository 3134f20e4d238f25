"""On what kind of device a program will run, and with how many digits its products are taken.

Unless a product says otherwise, a TPU takes one of float32 numbers in a single bfloat16 pass (8 bits of
mantissa) and a GPU in TF32 (11 bits). Everything that decides a score, a rank or a statistic says otherwise.
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


def platform() -> str:
    """The platform of the mesh that is set, "cpu", "gpu" or "tpu"; without a mesh, of JAX's default device.

    A program may be compiled for devices that this machine does not have: then only the mesh knows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    name = jax.default_backend() if device is None else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def is_cpu() -> bool:
    """Whether the program will run on CPUs."""
    return platform() == "cpu"


def full_product(a: Array, b: Array) -> Array:
    """`a @ b` in float32 on every platform."""
    return jax.numpy.matmul(a, b, precision=FULL)
