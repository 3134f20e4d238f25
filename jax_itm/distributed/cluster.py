"""Joining the other processes of a run."""

import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jax_itm.distributed.mesh import make_mesh
from jax_itm.errors import Missing, UserError

# What JAX knows a launcher by, and how many processes that has started.
LAUNCHERS = (("SLURM_STEP_NODELIST", "SLURM_NTASKS"), ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE"))


EVERYWHERE = "run the same command on every host (TPU VM: --worker=all, SLURM: srun)"


class Cluster(NamedTuple):
    """Where this process meets the others; None where the cluster says it.

    Attributes:
        coordinator: "host:port" of process 0.
        num_processes: how many there are.
        process_id: which this one is, from 0.
        start_timeout: seconds to wait for the others.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    start_timeout: int = 300


ALONE = Cluster()


def start(cluster: Cluster = ALONE) -> Mesh:
    """Joins the other processes where there are any, and returns a mesh over all devices.

    They are those that `cluster` names, or those that Cloud TPU, SLURM (srun), Open MPI (mpirun) or
    Kubernetes (an indexed Job) announce, as `jax.distributed.initialize` reads it. On a single machine
    nothing is done.

    Raises:
        UserError: half of `cluster` is given, or (Missing) the others were not all there in time.
    """
    where = None if jax.distributed.is_initialized() else _meeting(cluster)
    if where is not None:
        me = f"process {cluster.process_id} of {cluster.num_processes}" if where else "this process"
        print(f"{me} waits for the others, {cluster.start_timeout} s at most", flush=True)
        limit = cluster.start_timeout + 600  # JAX's own ends the process with a stack trace of C++
        join = partial(jax.distributed.initialize, **where, initialization_timeout=limit)
        within(cluster.start_timeout, join, lambda: f"{me}: {_missing(cluster)}")
    return make_mesh()


def within(seconds: int, call: Callable[[], Any], late: Callable[[], str]) -> Any:
    """What `call` returns; where it takes longer, Missing with `late()`. Ctrl-C works meanwhile."""
    done: dict[str, Any] = {}

    def run() -> None:
        try:
            done["value"] = call()
        except Exception as error:  # of JAX, of the network, of what a cluster's environment lacks
            done["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not done:
        raise Missing(late())
    if error := done.get("error"):
        said = " ".join(str(error).split())[:300] or type(error).__name__
        kind = Missing if isinstance(error, RuntimeError | OSError) else UserError
        raise kind(f"cannot join the other processes: {said}") from error
    return done["value"]


def _meeting(cluster: Cluster) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be told; None on a single machine."""
    coordinator, count, me, timeout = cluster
    if timeout < 1:
        raise UserError(f"--start_timeout {timeout}: must be at least 1 second")
    if coordinator is None and count is None and me is None:
        return {} if _announced() else None
    if coordinator is None or count is None or me is None:
        raise UserError("--coordinator, --num_processes, --process_id: each needs the other two")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator {coordinator}: must be HOST:PORT of process 0")
    if not 0 <= me < count:
        raise UserError(f"--process_id {me}: must be from 0 to --num_processes {count} less one")
    if count == 1:
        return None
    return {"coordinator_address": coordinator, "num_processes": count, "process_id": me}


def _announced() -> bool:
    env, nodes = os.environ, os.environ.get("SLURM_JOB_NUM_NODES", "1")
    if nodes != "1" and "SLURM_STEP_NODELIST" not in env:
        raise UserError(f"SLURM has given {nodes} nodes, and this process uses one alone: start it with srun")
    return (
        env.get("TPU_ML_PLATFORM") == "JAX"  # `import jax` says so where it finds TPU chips and libtpu
        or ("KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env)
        or "JAX_COORDINATOR_ADDRESS" in env
        or any(mark in env and env.get(count, "1") != "1" for mark, count in LAUNCHERS)
    )


def _missing(cluster: Cluster) -> str:
    """What to do where the others were not all there in time."""
    late = f"not all processes were there after {cluster.start_timeout} s (--start_timeout)"
    if not cluster.coordinator:
        return f"{late}; {EVERYWHERE}"
    host, _, port = cluster.coordinator.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        return f"{late}; {EVERYWHERE}, each with its own --process_id"
    except OSError as error:
        return f"{late}, and --coordinator {cluster.coordinator} cannot be reached ({error}); {EVERYWHERE}"


def is_main() -> bool:
    """Whether this process writes the logs."""
    return jax.process_index() == 0
