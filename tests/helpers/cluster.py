"""Real training processes on loopback, 4 virtual devices each, and faults that befall one of them."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

SCRIPT = """
import itertools, os, sys, threading
import jax
count, process, port, fault, *command = sys.argv[1:]
jax.distributed.initialize(
    f"localhost:{port}",
    int(count),
    int(process),
    cluster_detection_method="deactivate",
    heartbeat_timeout_seconds=1000,  # so that only our own watchdog notices
)
from jax._src.distributed import global_state
from jax_itm.inference import matcher
from jax_itm.train import loop, step
from jax_itm.cli.main import main

kind, at, delay, faulty_process = fault.split(":")
is_faulty = process == faulty_process
batches = itertools.count()

def fetch_and_check(run, outcome, original=loop.fetch_and_check):
    if is_faulty and kind.isdigit() and outcome and outcome.step == int(at):
        threading.Timer(float(delay), os.kill, (os.getpid(), int(kind))).start()
    return original(run, outcome)

def training_batches(run, first_step, original=loop.training_batches):
    for step, batch in enumerate(original(run, first_step), first_step):
        if is_faulty and kind == "nan" and step == int(at):
            batch["image"]["regions"][1, 0, 0] = float("nan")
        yield batch

def train_step(*args, original=step.train_step):
    update = original(*args)
    compiled = []

    def compiled_update(*args):
        if not compiled:  # Gloo waits 30 s for a process that still compiles, too little on a busy machine
            compiled.append(update.lower(*args).compile())
            global_state.client.wait_at_barrier("compiled", timeout_in_ms=300_000)
        return compiled[0](*args)

    return compiled_update

def heartbeat(original=matcher.heartbeat):
    original()
    if command[0] == "evaluate" and is_faulty and kind.isdigit() and next(batches) == int(at):
        os.kill(os.getpid(), int(kind))

loop.fetch_and_check = fetch_and_check
loop.training_batches = training_batches
step.train_step = train_step
matcher.heartbeat = heartbeat
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
    """Runs two processes until both have ended; one that is stopped (SIGSTOP) is killed last.

    Returns:
        Their exit statuses and outputs; the output "hung" for one that outlives `limit` seconds.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    root = Path(__file__).resolve().parents[2]
    flags = "--xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "2", str(index), port, ":".join(map(str, fault)), *command],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in (0, 1)
    ]
    is_stopped = lambda index: fault.kind == signal.SIGSTOP and index == fault.process
    outputs = ["", ""]
    try:
        for index in sorted((0, 1), key=is_stopped):
            if is_stopped(index):
                processes[index].kill()
            try:
                outputs[index] = processes[index].communicate(timeout=limit)[0]
            except subprocess.TimeoutExpired:
                outputs[index] = "hung"
    finally:
        for process in processes:
            process.kill()
    return [process.wait() for process in processes], outputs


STEPS = 16

FIELDS = {"duration": f"{STEPS} steps", "evaluate.every": "4 steps", "log_every": 1}


def command(place, workdir: str, **fields) -> list[str]:
    fields = {"data.data_dir": place / "data", **FIELDS, **fields}
    start = ["train", "--config", f"{place}/tiny.py:method=info_nce", "--workdir", str(place / workdir)]
    return [*start, *(f"--config.{name}={value}" for name, value in fields.items())]
