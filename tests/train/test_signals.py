"""Signals: to a whole process group with reader processes, in a thread, and what is said."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jax_itm.checkpoint.checkpoints import Checkpoints
from jax_itm.distributed.watchdog import StopSignal
from jax_itm.train import loop
from tests.helpers.paths import ROOT
from tests.helpers.tiny_run import QUICK, prepared, train

LONG = (*QUICK, "--config.duration=100000 steps", "--config.evaluate.every=100000 steps")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("place"), train=20, dev=8)


def started(place, run: str, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "jax_itm", "train", "--config", f"{place}/tiny.py"]
    command += ["--workdir", str(place / run), f"--config.data.data_dir={place}/data", *overrides]
    env = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def children(pid: int) -> list[int]:
    """Of all its threads."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def ended(processes: list[int]) -> bool:
    """Whether all processes end within half a minute; who has ended may still be listed, as a zombie."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        states = []
        for pid in processes:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0])
        if all(state == "Z" for state in states):
            return True
        time.sleep(0.2)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_saves_though_others_read(place, number):
    process = started(place, f"run_{number}", *LONG, "--config.data.workers=2")
    log = place / f"run_{number}" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and time.monotonic() < until:
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.2)
    readers = children(process.pid)
    assert len(readers) >= 2
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 128 + number, output
    assert f"{number.name}: stopped and saved after step" in output
    assert "Traceback" not in output and "leaked" not in output
    assert Checkpoints(str(place / f"run_{number}")).latest >= 5
    assert ended(readers)


def test_readers_end_with_a_killed_training(place):
    process = started(place, "killed", *LONG, "--config.data.workers=1")
    log = place / "killed" / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None
        time.sleep(0.2)
    readers = children(process.pid)
    process.kill()
    process.communicate(timeout=30)
    assert ended(readers)


def test_a_reader_that_fails_after_a_signal_ends_in_the_usual_save(place, monkeypatch, capsys):
    """As where the system ends the readers, too."""
    read = loop.training_batches

    def ended_readers(run, first):
        for k, batch in enumerate(read(run, first)):
            if k == 7:
                os.kill(os.getpid(), signal.SIGTERM)
                raise RuntimeError("Worker process was terminated")
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_batches", ended_readers)
        assert train(place, "reader", *LONG) == 128 + signal.SIGTERM
    assert Checkpoints(str(place / "reader")).latest == 7
    assert "SIGTERM: stopped and saved after step 7" in capsys.readouterr().out


def test_a_thread_catches_no_signals():
    seen = []

    def run():
        with StopSignal() as stop:
            seen.append(stop.number)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [0]
