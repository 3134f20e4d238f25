"""TPU slices and GPU hosts that programs can be compiled for without having them."""

import re
from typing import Any

from jax.experimental import topologies

from jax_itm.distributed.gpus import EXTRA, GPUS
from jax_itm.distributed.offline import without_tpu
from jax_itm.errors import UserError
from jax_itm.platforms import CHIPS

TWO_CORES = ("v4", "v5p")  # generations whose chips have two cores that work as one ("megacore")


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
    options: dict[str, Any]
    if generation in GPUS:
        extra = EXTRA
        hosts = shape if "x" in shape else f"1x{shape}"
        options = {"platform": "cuda", "topology_name": "", "target_config": GPUS[generation]}
        options["topology"] = f"1x{hosts}"  # slices, hosts of a slice, devices of a host
    else:
        extra = "aot"
        options = {"platform": "tpu", "topology_name": name}
        if generation in TWO_CORES:
            options["chip_config_name"] = "megacore"
    try:
        return list(topologies.get_topology_desc(**options).devices)
    except Exception as error:  # of many types, from the library that is loaded here
        reason = " ".join(str(error).split())[:200]
        where = f"the compiler comes with pip install -e .[{extra}]"
        raise UserError(f"--topology {name}: {reason} ({where})") from error
