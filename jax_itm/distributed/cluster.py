"""Joining the other processes of a run."""

import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
from jax.sharding import Mesh

from jax_itm.distributed.mesh import make_mesh
from jax_itm.errors import PeerTimeout, UserError

T = TypeVar("T")

# By which variable JAX recognises a launcher, and which one holds the number of processes it has started.
LAUNCHERS = (("SLURM_STEP_NODELIST", "SLURM_NTASKS"), ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE"))

# What JAX reads of a step of SLURM; without all of them it takes the process for the only one.
SLURM_STEP = ("SLURM_STEP_NODELIST", "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")

EVERYWHERE = "run the same command on every host (TPU VM: --worker=all, SLURM: srun)"


class Cluster(NamedTuple):
    """Where this process meets the others; what is None is detected from the environment.

    Attributes:
        coordinator: "host:port" of process 0.
        num_processes: how many processes there are.
        process_id: the number of this process, from 0.
        start_timeout: seconds to wait for the others.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    start_timeout: int = 300


AUTODETECT = Cluster()


def is_main_process() -> bool:
    """Whether this process writes logs and results."""
    return jax.process_index() == 0


def is_single_process() -> bool:
    """Whether the run has no other process."""
    return jax.process_count() == 1


def start(cluster: Cluster = AUTODETECT) -> Mesh:
    """Joins the other processes, if there are any, and returns a mesh over all devices.

    The others are those that `cluster` names, or those that Cloud TPU, SLURM (srun), Open MPI (mpirun) or
    Kubernetes (an indexed Job) announce, as `jax.distributed.initialize` reads them. On a single machine
    nothing is done.

    Raises:
        UserError: `cluster` is incomplete or wrong.
        PeerTimeout: the other processes did not show up in time.
    """
    arguments = None if jax.distributed.is_initialized() else _initialize_arguments(cluster)
    if arguments is not None:
        name = f"process {cluster.process_id} of {cluster.num_processes}" if arguments else "this process"
        print(f"{name} waits for the others, {cluster.start_timeout} s at most", flush=True)
        # Longer than ours: JAX's own timeout ends the process with a C++ stack trace.
        timeout = cluster.start_timeout + 600
        join = partial(jax.distributed.initialize, **arguments, initialization_timeout=timeout)
        with_timeout(cluster.start_timeout, join, lambda: f"{name}: {_timeout_message(cluster)}")
    return make_mesh()


def with_timeout(seconds: int, call: Callable[[], T], message: Callable[[], str]) -> T:
    """The value of `call()`, which runs in a thread so that Ctrl-C works meanwhile.

    Raises:
        PeerTimeout: it took longer than `seconds` (the error is `message()`), or the network failed.
        UserError: it failed for another reason.
    """
    result: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            result.append(call())
        except Exception as error:  # of JAX, of the network, of what a cluster's environment lacks
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        error = errors[0]
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        kind = PeerTimeout if isinstance(error, RuntimeError | OSError) else UserError
        raise kind(f"cannot join the other processes: {reason}") from error
    if not result:
        raise PeerTimeout(message())
    return result[0]


def _initialize_arguments(cluster: Cluster) -> dict[str, Any] | None:
    """The arguments for `jax.distributed.initialize`; None on a single machine."""
    coordinator, count, index, timeout = cluster
    if timeout < 1:
        raise UserError(f"--start_timeout {timeout}: must be at least 1 second")
    if coordinator is None and count is None and index is None:
        return {} if _is_announced() else None
    if coordinator is None or count is None or index is None:
        raise UserError("--coordinator, --num_processes, --process_id: each needs the other two")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator {coordinator}: must be HOST:PORT of process 0")
    if not 0 <= index < count:
        raise UserError(f"--process_id {index}: must be from 0 to {count - 1}, below --num_processes")
    if count == 1:
        return None
    return {"coordinator_address": coordinator, "num_processes": count, "process_id": index}


def _is_announced() -> bool:
    """Whether the environment says that this process is one of several."""
    environment = os.environ
    nodes = environment.get("SLURM_JOB_NUM_NODES", "1")
    if nodes != "1" and "SLURM_STEP_NODELIST" not in environment:
        raise UserError(
            f"SLURM has allocated {nodes} nodes, but this process would use only one: start it with srun"
        )
    missing = [name for name in SLURM_STEP if name not in environment]
    if SLURM_STEP[0] not in missing and missing:
        raise UserError(
            f"{', '.join(missing)}: not set, though {SLURM_STEP[0]} is; pass on all variables of SLURM, into"
            f" a container, too, or unset {SLURM_STEP[0]} for a process on its own"
        )
    return (
        environment.get("TPU_ML_PLATFORM") == "JAX"  # set by `import jax` if it finds TPU chips and libtpu
        or ("KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment)
        or "JAX_COORDINATOR_ADDRESS" in environment
        or any(mark in environment and environment.get(count, "1") != "1" for mark, count in LAUNCHERS)
    )


def _timeout_message(cluster: Cluster) -> str:
    """What to do if the other processes did not all show up in time."""
    late = f"not all processes had started after {cluster.start_timeout} s (--start_timeout)"
    if not cluster.coordinator:
        return f"{late}; {EVERYWHERE}"
    host, _, port = cluster.coordinator.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        return f"{late}; {EVERYWHERE}, each with its own --process_id"
    except OSError as error:
        return f"{late}, and --coordinator {cluster.coordinator} cannot be reached ({error}); {EVERYWHERE}"
