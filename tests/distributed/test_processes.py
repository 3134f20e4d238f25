"""Real processes on loopback with virtual devices: they meet, compare themselves, and compute as one does."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_itm
from jax_itm import losses
from jax_itm.distributed import preflight
from jax_itm.distributed.cluster import Cluster, start
from jax_itm.errors import LOST, UserError
from tests.helpers.tiny_run import prepared

SCRIPT = """
import sys
import jax, jax.numpy as jnp, numpy as np
port, me = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(me))
from jax_itm import losses
from jax_itm.distributed.mesh import make_mesh, shard_local_batch
from jax_itm.sharded.tiles import Plan

mesh = make_mesh()
assert mesh.size == 8
v, t = np.random.default_rng(0).normal(size=(2, 32, 8)).astype(np.float32)
mine = slice(16 * int(me), 16 * int(me) + 16)
with jax.set_mesh(mesh):
    batch = shard_local_batch(mesh, (v[mine], t[mine], np.arange(32, dtype=np.int32)[mine]))
    for form in ("ring", "gather"):
        plan = Plan(form, 3)
        for loss in (
            lambda v, t, i: losses.info_nce(v, t, scale=2.0, image_ids=i, plan=plan),
            lambda v, t, i: losses.triplet(v, t, image_ids=i, plan=plan),
        ):
            norm = lambda v, t, i: jnp.sum(jax.grad(loss)(v, t, i) ** 2)
            print("result", float(jax.jit(loss)(*batch)), float(jax.jit(norm)(*batch)), flush=True)
"""


# The commands of argv, one after the other, in processes that have met in the first.
COMMANDS = """
import json, sys
from jax_itm.cli.main import main
for command in json.loads(sys.argv[1]):
    print("status", main(command), flush=True)
"""
START = """
import os, sys
from jax_itm.distributed.cluster import Cluster, start
from jax_itm.errors import UserError
try:
    start(Cluster(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]), 2))
except UserError as error:
    print(error, flush=True)
    os._exit(error.status)
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])


def run_together(script: str, arguments: list[list[str]], devices: int) -> tuple[list[int], list[str]]:
    """The exit statuses and outputs of processes that run `script` at the same time."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *each],
            **{"env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True},
        )
        for each in arguments
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def test_two_processes_compute_the_losses_of_one():
    port = free_port()
    status, outputs = run_together(SCRIPT, [[port, str(me)] for me in (0, 1)], devices=4)
    assert status == [0, 0], outputs
    v, t = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 8)), jnp.float32)
    ids, expected = jnp.arange(32), []
    for loss in (
        lambda v: losses.info_nce(v, t, scale=2.0, image_ids=ids),
        lambda v: losses.triplet(v, t, image_ids=ids),
    ):
        expected.append([float(loss(v)), float(jnp.sum(jax.grad(loss)(v) ** 2))])
    for text in outputs:
        lines = [line.split()[1:] for line in text.splitlines() if line.startswith("result")]
        values = [[float(word) for word in line] for line in lines]
        np.testing.assert_allclose(values, expected * 2, rtol=1e-5)


def test_two_processes_train_and_evaluate_one_run_and_refuse_another_config(tmp_path):
    prepared(tmp_path, train=16, dev=8)
    port, run, result = free_port(), tmp_path / "run", tmp_path / "result.json"

    def commands(me: int) -> str:
        group = f"--coordinator localhost:{port} --num_processes 2 --process_id {me} --start_timeout 200"
        fields = f"data.data_dir={tmp_path}/data", "duration=2 steps", f"data.workers={me}"
        train = [
            "train",
            "--config",
            f"{tmp_path}/tiny.py:method=info_nce",
            "--workdir",
            str(run),
            *group.split(),
        ]
        train += [f"--config.{field}" for field in fields]
        evaluate = ["evaluate", "--workdir", str(run), "--split", "dev", "--out", str(result), *group.split()]
        return json.dumps([[*train, f"--config.dim={16 + me}"], train, evaluate])

    status, outputs = run_together(COMMANDS, [[commands(me)] for me in (0, 1)], devices=2)
    assert status == [0, 0], outputs
    for me, text in enumerate(outputs):
        assert [line for line in text.splitlines() if line.startswith("status")] == [
            "status 2",
            "status 0",
            "status 0",
        ], text
        assert "process 1 has config.dim=17, process 0 has 16; run the same" in text
        assert f"process {me} of 2: 2 x cpu, mesh data=4; jax {jax.__version__}" in text
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert Counter("val/rsum" in line for line in lines)[True] == 1  # by one process alone
    assert json.loads(result.read_text())["protocol"]["step"] == 2
    assert "rSum" in outputs[0] and "rSum  " not in outputs[1]
    assert jax_itm.load(str(run)).step == 2


def test_missing_process_is_reported_in_time():
    ports = free_port(), free_port()
    status, outputs = run_together(START, [[ports[me], str(me)] for me in (0, 1)], devices=1)
    assert status == [LOST, LOST], outputs
    for me, text in enumerate(outputs):
        assert f"process {me} of 2: not all processes had started after 2 s (--start_timeout)" in text
        assert "run the same command on every host" in text
    assert "cannot be reached" in outputs[1] and "cannot be reached" not in outputs[0]


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (Cluster("host:1", 2), "--coordinator, --num_processes, --process_id: each needs the other two"),
        (Cluster("host", 2, 0), "--coordinator host: must be HOST:PORT"),
        (Cluster("host:1", 2, 2), "--process_id 2: must be from 0 to"),
        (Cluster(start_timeout=0), "--start_timeout 0: must be at least 1"),
    ],
)
def test_bad_options_are_refused(cluster, message):
    with pytest.raises(UserError, match=message):
        start(cluster)


SLURM = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize("lost", ["SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"])
def test_a_part_of_slurms_variables_is_refused(monkeypatch, lost):
    for name, value in (SLURM | {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}).items():
        if name != lost:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{lost}: not set, though SLURM_STEP_NODELIST is"):
        start()


@pytest.mark.parametrize(
    ("env", "several"),
    [
        ({}, False),
        (SLURM | {"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}, False),
        (SLURM | {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2"}, True),
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # a notebook's pod
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
        ({"TPU_ML_PLATFORM": "JAX"}, True),
    ],
)
def test_clusters_are_found(monkeypatch, env, several):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: joined.append(options))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert start().size == 8
    assert [set(options) for options in joined] == several * [{"initialization_timeout"}]


def test_batch_script_without_srun_is_refused(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    with pytest.raises(UserError, match=r"SLURM has allocated 4 nodes.*start it with srun"):
        start()


def test_difference_is_reported_by_process_and_name():
    facts = [json.dumps({"jax": number, "python": "3.11"}) for number in ("0.10.2", "0.10.2", "0.11.0")]
    preflight.compare(facts[:2])
    with pytest.raises(UserError, match=r"process 2 has jax='0.11.0', process 0 has '0.10.2'; run the same"):
        preflight.compare(facts)
