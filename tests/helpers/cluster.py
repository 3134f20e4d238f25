"""Real training processes on loopback, 4 virtual devices each, and faults that befall one of them."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

SCRIPT = """
import os, sys, threading
import jax
count, me, port, fault, *command = sys.argv[1:]
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
late = {"heartbeat_timeout_seconds": 1000}  # so that only our own watch can tell
jax.distributed.initialize(
    f"localhost:{port}", int(count), int(me), cluster_detection_method="deactivate", **late
)
from jax._src.distributed import global_state
client = global_state.client
from jax_itm.inference import matcher
from jax_itm.train import loop as train
from jax_itm.__main__ import main

kind, at, delay, whose = fault.split(":")
read, place = train.Run.read, train.Run.placed

def reads(self, scalars, step):
    if kind.isdigit() and step == int(at) and me == whose:
        threading.Timer(float(delay), os.kill, (os.getpid(), int(kind))).start()
    return read(self, scalars, step)

def places(self, batch, asked):
    if kind == "nan" and int(self.state.step) == int(at) and me == whose:
        batch["image"]["regions"][1, 0, 0] = float("nan")
    return place(self, batch, asked)

def compiled(*given, make=train.step.train_step):
    update, ready = make(*given), []

    def step(*given):
        if not ready:  # Gloo waits 30 s for a process that still compiles, which a busy machine exceeds
            ready.append(update.lower(*given).compile())
            client.wait_at_barrier("compiled", timeout_in_ms=300_000)
        return ready[0](*given)

    return step

batches = iter(range(1_000_000))

def moves(moved=matcher.moved):
    moved()
    if command[0] == "evaluate" and kind.isdigit() and next(batches) == int(at) and me == whose:
        os.kill(os.getpid(), int(kind))

train.Run.read, train.Run.placed, train.step.train_step, matcher.moved = reads, places, compiled, moves
sys.exit(main(command))
"""


class Fault(NamedTuple):
    """What befalls one process: a signal's number or "nan", `delay` seconds after step `at`.

    In an evaluation the signal comes at once, before batch `at`.
    """

    kind: int | str = "none"
    at: int = 0
    delay: float = 0.0
    process: int = 1


NONE = Fault()


def run(command: list[str], fault: Fault = NONE, limit: float = 400) -> tuple[list[int], list[str]]:
    """Two processes, until both have ended; one that is stopped (SIGSTOP) is killed last.

    Returns:
        Their exit statuses and what they said; the error "hung" for one that outlives `limit` seconds.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    root = Path(__file__).resolve().parents[2]
    flags = "--xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / ".cache" / "jax"))
    told = ":".join(map(str, fault))
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "2", str(me), port, told, *command],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for me in (0, 1)
    ]
    order = sorted((0, 1), key=lambda me: fault.kind == signal.SIGSTOP and me == fault.process)
    said = ["", ""]
    try:
        for me in order:
            if fault.kind == signal.SIGSTOP and me == fault.process:
                both[me].kill()
            try:
                said[me] = both[me].communicate(timeout=limit)[0]
            except subprocess.TimeoutExpired:
                said[me] = "hung"
    finally:
        for process in both:
            process.kill()
    return [process.wait() for process in both], said


STEPS = 16

FIELDS = {"duration": f"{STEPS} steps", "evaluate.every": "4 steps", "log_every": 1}


def command(place, workdir: str, **fields) -> list[str]:
    fields = {"data.data_dir": place / "data", **FIELDS, **fields}
    start = ["train", "--config", f"{place}/tiny.py:method=info_nce", "--workdir", str(place / workdir)]
    return [*start, *(f"--config.{name}={value}" for name, value in fields.items())]
