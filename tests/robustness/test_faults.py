"""Two real processes train together; one is killed, hangs, is told to stop, or reads what is not a number."""

import json
import shutil
import signal

import jax
import numpy as np
import pytest

from jax_itm.checkpoint.checkpoints import Checkpoints
from jax_itm.cli.main import main
from jax_itm.distributed.mesh import make_mesh
from jax_itm.errors import LOST
from jax_itm.train import loop
from tests.helpers.cluster import STEPS, Fault, command, run
from tests.helpers.tiny_run import params, prepared, same


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A config, prepared data, whose captions are no whole batches, and a run that nothing disturbed."""
    place = prepared(tmp_path_factory.mktemp("faults"), train=25, dev=8)
    status, outputs = run(command(place, "whole", patience=60.0))  # an evaluation's, below
    assert status == [0, 0], outputs
    return place


def curve(workdir) -> dict[int, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def test_lost_hanging_and_stopped_processes(place, monkeypatch):
    """After all of it: the parameters of the run that nothing disturbed, bit for bit."""
    parts = place / "parts"
    status, outputs = run(command(place, "parts", patience=60.0), Fault(signal.SIGKILL, at=6, delay=0.01))
    assert status == [LOST, -signal.SIGKILL] and "Traceback" not in outputs[0], outputs[0]
    # XLA does not notice each broken collective; then the watchdog does
    assert "another process is lost" in outputs[0] or "no progress for 60 s" in outputs[0], outputs[0]
    status, outputs = run(command(place, "parts", patience=45.0), Fault(signal.SIGSTOP, at=9))
    assert status[0] == LOST and "no progress for 45 s" in outputs[0], outputs[0]
    status, outputs = run(command(place, "parts"), Fault(signal.SIGTERM, at=10))
    assert status == [128 + signal.SIGTERM] * 2, outputs
    stopped = Checkpoints(str(parts)).latest
    assert 10 < stopped <= 14  # saved at once, at a step that both agree on
    for devices in (1, 4):  # the same run resumes on other devices
        shutil.copytree(parts, place / f"on_{devices}")
        with monkeypatch.context() as patch:
            patch.setattr(loop, "start", lambda *_, n=devices: make_mesh(n))
            assert main(command(place, f"on_{devices}")) == 0
        assert list(curve(place / f"on_{devices}")) == list(range(1, STEPS + 1))
        np.testing.assert_allclose(
            [*curve(place / f"on_{devices}").values()], [*curve(place / "whole").values()], rtol=1e-5
        )
    status, outputs = run(command(place, "parts"))
    assert status == [0, 0], outputs
    same(params(place / "whole"), params(parts))
    assert curve(parts) == curve(place / "whole")


def test_an_input_that_is_not_finite_names_step_and_process(place):
    status, outputs = run(command(place, "nan"), Fault("nan", at=5))
    assert status == [2, 2], outputs
    for text in outputs:
        assert "step 6: " in text and " is nan (process 1 read an input that is not finite)" in text
        assert "checkpoint 4 is kept" in text and "Traceback" not in text
    assert Checkpoints(str(place / "nan")).latest == 4
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params(place / "nan")))


def test_an_evaluation_does_not_wait_for_a_process_that_is_lost(place):
    command = ["evaluate", "--workdir", str(place / "whole"), "--split", "dev"]
    status, outputs = run(command, Fault(signal.SIGKILL, at=1))
    assert status == [LOST, -signal.SIGKILL], outputs
    assert "Traceback" not in outputs[0]
    assert "another process is lost" in outputs[0] or "no progress for 60 s" in outputs[0], outputs[0]
