"""Before the first step, every process describes itself; all must agree, except about their files' paths."""

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jax_itm.config.load import flatten, host_fields
from jax_itm.distributed.cluster import is_single_process, with_timeout
from jax_itm.errors import UserError
from jax_itm.types import Config
from jax_itm.version import __version__


def check(mesh: Mesh, config: Config, options: dict[str, Any], timeout: int) -> None:
    """Prints a line about this process and, if there are several, compares it with the others.

    Args:
        mesh: over the devices of all processes.
        config: of the run.
        options: of the command, {"--workdir": ..}.
        timeout: seconds to wait for the answers of the others.

    Raises:
        UserError: a process differs in its devices, versions, code, options or config. The message names the
            process and the difference; all processes raise it.
    """
    devices = jax.local_devices()
    versions = _versions()
    versions_text = ", ".join(f"{name} {number}" for name, number in versions.items())
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    process = f"process {jax.process_index()} of {jax.process_count()}"
    print(
        f"{process}: {len(devices)} x {devices[0].device_kind}, mesh {axes}; {versions_text}",
        flush=True,
    )
    if is_single_process():
        return
    _check_devices(mesh)
    may_differ = host_fields(config)
    fields = {f"config.{name}": value for name, value in flatten(config).items() if name not in may_differ}
    facts = json.dumps({**versions, "the code": code_hash(), **options, **fields}, default=str)
    late = lambda: (
        f"{process}: no answer from the others after {timeout} s (--start_timeout);"
        f" this one has {versions_text}, and all need the same"
    )
    compare(with_timeout(timeout, lambda: _gather(facts), late))


def check_equal(facts: Mapping[str, str]) -> None:
    """Raises UserError, in all processes, if one of several has other facts than the others."""
    if not is_single_process():
        compare(_gather(json.dumps(dict(facts))))


def raise_together(message: str) -> None:
    """Raises the first message that is not empty as a UserError, in all processes."""
    messages = [message] if is_single_process() else map(json.loads, _gather(json.dumps(message)))
    if first := next(filter(None, messages), ""):
        raise UserError(first)


def compare(facts: list[str]) -> None:
    """Raises UserError if the facts of a process (JSON, one text each) differ from those of the first."""
    first = json.loads(facts[0])
    for process, text in enumerate(facts):
        other = json.loads(text)
        names = [name for name in first | other if first.get(name) != other.get(name)]
        if names:
            name = names[0]
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise UserError(
                f"process {process} has {name}={other.get(name)!r}, process 0 has {first.get(name)!r}{more};"
                " run the same command with the same code, packages and data on every host"
            )


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("jax", "jaxlib", "flax")}
    return {**packages, "jax_itm": __version__, "python": platform.python_version()}


def code_hash() -> str:
    """A hash of all source files of this package."""
    code = hashlib.sha256()
    package = Path(__file__).parents[1]
    for file in sorted(package.rglob("*.py")):
        code.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return code.hexdigest()[:12]


def _check_devices(mesh: Mesh) -> None:
    """Raises UserError if processes have different numbers or kinds of devices."""
    counts = Counter((device.process_index, device.device_kind) for device in mesh.devices.flat)
    devices_of = {process: f"{count} x {kind}" for (process, kind), count in sorted(counts.items())}
    for process, devices in devices_of.items():
        if devices != devices_of[0]:
            raise UserError(
                f"process {process} has {devices}, process 0 has {devices_of[0]}:"
                " all processes need the same devices"
            )


def _gather(text: str) -> list[str]:
    """The text of every process, in the order of the processes."""
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - len(data))))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]
