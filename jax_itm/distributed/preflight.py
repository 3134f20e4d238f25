"""Before the first step: each process says what it is, and all must be equal but for where things lie."""

import hashlib
import json
import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jax_itm.config.load import flatten
from jax_itm.distributed.cluster import within
from jax_itm.errors import UserError
from jax_itm.types import Config
from jax_itm.version import __version__

# Fields that may differ from host to host: where things lie, and how many processes read them.
LOCAL = ("data.data_dir", "data.source", "data.workers", "image.path", "text.path")


def check(mesh: Mesh, config: Config, options: dict[str, Any], timeout: int) -> None:
    """Prints a line about this process; among several, compares it with the others.

    Args:
        mesh: over the devices of all processes.
        config: the run's.
        options: of the command, {"--workdir": ..}.
        timeout: seconds to wait for the others' answers.

    Raises:
        UserError: a process has another number of devices, other versions, code, options or config. The
            line names the process and what differs; all processes raise it.
    """
    devices, versions = jax.local_devices(), _versions()
    said = ", ".join(f"{name} {number}" for name, number in versions.items())
    me, count = jax.process_index(), jax.process_count()
    print(
        f"process {me} of {count}: {len(devices)} x {devices[0].device_kind}, mesh"
        f" {', '.join(f'{axis}={size}' for axis, size in mesh.shape.items())}; {said}",
        flush=True,
    )
    if count == 1:
        return
    _check_devices(mesh)
    fields = {f"config.{k}": v for k, v in flatten(config).items() if k not in LOCAL}
    facts = {**versions, "the code": _code(), **options, **fields}
    late = lambda: (
        f"process {me} of {count}: no answer from the others after {timeout} s (--start_timeout);"
        f" this one has {said}, and all need the same"
    )
    compare(within(timeout, lambda: _gather(json.dumps(facts, default=str)), late))


def compare(told: list[str]) -> None:
    """Raises UserError where a process told other facts (JSON, process by process) than the first."""
    first = json.loads(told[0])
    for k, text in enumerate(told):
        other = json.loads(text)
        names = [name for name in first | other if first.get(name) != other.get(name)]
        if names:
            name, more = names[0], f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise UserError(
                f"process {k} has {name}={other.get(name)!r}, process 0 {first.get(name)!r}{more};"
                " run the same command with the same code and packages on every host"
            )


def _versions() -> dict[str, str]:
    known = {name: version(name) for name in ("jax", "jaxlib", "flax")}
    return {**known, "jax_itm": __version__, "python": platform.python_version()}


def _code() -> str:
    """What tells this package's files from others."""
    digest, here = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted(here.rglob("*.py")):
        digest.update(str(file.relative_to(here)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _check_devices(mesh: Mesh) -> None:
    """Raises UserError where processes have unequal numbers or kinds of devices."""
    held = Counter((device.process_index, device.device_kind) for device in mesh.devices.flat)
    has = {k: f"{count} x {kind}" for (k, kind), count in sorted(held.items())}
    for k, devices in has.items():
        if devices != has[0]:
            raise UserError(f"process {k} has {devices}, process 0 {has[0]}: all need the same devices")


def _gather(text: str) -> list[str]:
    """Every process's text, in the order of the processes."""
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - len(data))))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]
