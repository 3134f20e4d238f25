"""Where the chips of a TPU slice stand: a path through neighbours, and machines that this one is not."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from jax_itm.distributed.gpus import EXTRA, GPUS
from jax_itm.distributed.offline import without_tpu
from jax_itm.errors import UserError
from jax_itm.platforms import CHIPS

TWO_CORES = ("v4", "v5p")  # generations whose chips have two cores that work as one ("megacore")


def snake(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The cells of a grid row by row, every other row backwards: each is next to the one before.

    The last is as many cells from the first as there are rows, less one, on links that the others do not use
    in that direction; on a torus it is next to it. There are orders without that way home, but whole rows of
    a snake are a rectangle, and on v5e and v6e the compiler has no way for collectives of other groups.
    """
    rows, *rest = shape
    if not rest:
        return [(row,) for row in range(rows)]
    line = snake(tuple(rest))
    return [(row, *cell) for row in range(rows) for cell in (line[::-1] if row % 2 else line)]


def ring_order(devices: Sequence[Any]) -> list[Any]:
    """The devices in an order in which neighbours are one link apart, where that is known.

    The loss passes columns from each device to the next one. In JAX's own order of a v5e 4x8 slice some of
    them are 8 and 10 links apart. Devices without coordinates, and slices with holes, stay as they are.
    """
    cells = [tuple(getattr(device, "coords", ())) for device in devices]
    if not cells[0] or len(set(cells)) < len(cells):
        return list(devices)
    low = np.min(cells, axis=0)
    high = np.max(cells, axis=0)
    shape = tuple(int(side) for side in high - low + 1)
    if np.prod(shape) != len(cells):
        return list(devices)
    axes = sorted(range(len(shape)), key=lambda axis: shape[axis])  # few long rows: a short way home
    at = {tuple(int(cell[axis] - low[axis]) for axis in axes): k for k, cell in enumerate(cells)}
    return [devices[at[cell]] for cell in snake(tuple(shape[axis] for axis in axes))]


def offline_devices(name: str) -> list[Any]:
    """The devices of a slice, or of GPU hosts, that this machine lacks, to compile programs for.

    Args:
        name: generation and shape of a TPU slice, "v5e:4x8" or "v5p:2x2x4"; or a GPU and how many of them,
            "h100:8", with several hosts "h100:2x8".

    Raises:
        UserError: the generation is unknown, the compiler does not know the slice, or there is no compiler.
    """
    generation, _, shape = name.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        known = ", ".join(CHIPS)
        raise UserError(
            f"--topology {name}: must be a generation ({known}) and a shape, such as v5e:4x8 or h100:8"
        )
    without_tpu()
    options: dict[str, Any] = {"platform": "tpu", "topology_name": name}
    if generation in TWO_CORES:
        options["chip_config_name"] = "megacore"
    if generation in GPUS:
        hosts = shape if "x" in shape else f"1x{shape}"
        options = {"platform": "cuda", "topology_name": "", "target_config": GPUS[generation]}
        options["topology"] = f"1x{hosts}"  # slices, hosts of a slice, devices of a host
    try:
        return list(topologies.get_topology_desc(**options).devices)
    except Exception as error:  # of many types, from the library that is loaded here
        reason = " ".join(str(error).split())[:200]
        extra = EXTRA if generation in GPUS else "aot"
        where = f"the compiler comes with pip install -e .[{extra}]"
        raise UserError(f"--topology {name}: {reason} ({where})") from error


def ring_mesh(devices: Sequence[Any], axis: str) -> Mesh:
    """A mesh with one Auto axis over the devices, in the order of a ring.

    Linen needs Auto axes; JAX's default is Explicit since 0.9.
    """
    return Mesh(np.asarray(ring_order(devices)), (axis,), axis_types=(AxisType.Auto,))
