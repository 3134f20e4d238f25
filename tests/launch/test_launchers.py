"""The launchers: shellcheck, dry runs, and real runs against stand-ins for gcloud, kubectl and SLURM."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.launchers import GKE, RUN, SLURM, TPU, TRAIN
from tests.helpers.paths import ROOT

SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / "launch" / "slurm.sbatch"])


def linter(name: str) -> str:
    """The path of a linter; skips the test if it is not installed."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return path or pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_is_clean(script):
    assert os.access(script, os.X_OK) or script.name == "env.sh"
    subprocess.run(["bash", "-n", script], check=True)
    done = subprocess.run([linter("shellcheck"), "-x", script], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stdout


def test_dockerfile():
    file = ROOT / "launch" / "Dockerfile"
    for line in file.read_text().splitlines():
        if line.startswith("COPY"):
            assert all((ROOT / name).exists() for name in line.split()[1:-1])
    done = subprocess.run([linter("hadolint"), file], capture_output=True, text=True)
    assert not done.returncode, done.stdout


def test_the_exact_versions_are_those_that_jax_needs():
    """jax names the TPU library and the CUDA plugin that fit it, and no package has two versions."""
    lines = [
        line
        for file in sorted((ROOT / "launch").glob("constraints*.txt"))
        for line in file.read_text().splitlines()
        if not line.startswith("#")
    ]
    pairs = [line.split("==") for line in lines]
    versions = {canonicalize_name(name): pinned for name, pinned in pairs}
    assert len(versions) == len(lines) and versions["jax"] == version("jax")
    for text in requires("jax") or ():
        needed = Requirement(text)
        for extra in ("tpu", "cuda13"):
            if needed.marker and needed.marker.evaluate({"extra": extra}):
                assert needed.specifier.contains(versions[canonicalize_name(needed.name)]), text


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("local.sh", ("--devices", "4", *RUN), ["device_count=4", ".venv/bin/python -m jax_itm " + TRAIN]),
        (
            "tpu_vm.sh",
            TPU,
            ["queued-resources create itm --zone z", "--spot", "--worker all", RUN[0], "delete itm"],
        ),
        ("slurm.sbatch", SLURM, ["sbatch --nodes=4 --time=1:00 launch/slurm.sbatch", "srun", TRAIN]),
        (
            "gke.sh",
            (*GKE, "--build"),
            ["docker push r/itm", "kubectl apply", "kind: JobSet", '"train"'],
        ),
    ],
)
def test_a_dry_run_prints_everything_and_runs_nothing(sandbox, script, words, expected):
    before = sorted(sandbox.tree.rglob("*"))
    done = sandbox.run(script, *words, "--dry_run")
    assert not done.returncode, done.stderr
    assert all(part in done.stdout for part in expected), done.stdout
    assert "lr_factors" in done.stdout
    assert not sandbox.calls() and sorted(sandbox.tree.rglob("*")) == before


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("local.sh", ("--device", "4"), "local.sh: --device: not an option; the options are dry_run devices"),
        ("local.sh", ("--devices",), "local.sh: --devices: needs a value"),
        ("tpu_vm.sh", ("--name", "itm", "c.py"), "tpu_vm.sh: zone: required"),
        ("tpu_vm.sh", [*TPU, "--workdir", "runs/x"], "--workdir runs/x: must be gs://"),
        ("slurm.sbatch", ("--workdir", "runs/x"), "slurm.sbatch: CONFIG: required"),
        ("gke.sh", [*GKE, "--data", "data"], "--data data: must be in a bucket, gs://"),
        ("gke.sh", [*GKE, "--hosts", "4x8"], "--hosts 4x8: must be a whole number"),
        (
            "gke.sh",
            [*GKE, "--topology", "4x4"],
            "--topology 4x4: has 16 chips, but --hosts 8 x --chips 4 are 32",
        ),
        ("gke.sh", [*GKE, "--topology", "4,8"], "--topology 4,8: must be such as 4x8"),
        ("gke.sh", [*GKE, "--name", "it: {m"], "--name it: {m: must be small letters"),
        ("gke.sh", [*GKE, "--image", 'x" y'], '--image x" y: must be REPOSITORY/NAME'),
        ("gke.sh", [*GKE, "--queue", "a b"], "--queue a b: must be a queue of Kueue"),
        ("gke.sh", [*GKE, "--data", "gs://A:b/x"], "--data gs://A:b/x: no name of a bucket"),
        ("gke.sh", [*GKE, "--config.name=a\nb"], "$'--config.name=a\\nb': has a line break"),
        ("gke.sh", [*GKE, "--memory", "lots"], "--memory lots: must be such as 64Gi"),
        ("local.sh", ("a.py", "b.py"), "local.sh: b.py: only one CONFIG is allowed, and a.py is one"),
        ("local.sh", ("--devices", "-1"), "local.sh: --devices -1: must be a whole number"),
    ],
)
def test_wrong_arguments_are_refused(sandbox, script, words, expected):
    done = sandbox.run(script, *words)
    assert done.returncode == 2 and expected in done.stderr and done.stderr.count("\n") == 1
    assert not sandbox.calls()


@pytest.mark.parametrize(
    ("script", "words", "tool"),
    [("tpu_vm.sh", TPU, "gcloud"), ("gke.sh", GKE, "kubectl"), ("slurm.sbatch", SLURM, "sbatch")],
)
def test_a_missing_tool_is_named(sandbox, script, words, tool):
    done = sandbox.run(script, *words, without=tool)
    assert done.returncode == 2 and done.stderr == f"{script}: {tool}: not found, but required\n"


@pytest.mark.parametrize("script", ["local.sh", "tpu_vm.sh", "gke.sh", "slurm.sbatch"])
def test_help_is_there_from_any_folder(script, sandbox, tmp_path):
    here = os.path.relpath(sandbox.tree / "launch" / script, tmp_path)
    done = subprocess.run([here, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert f"./launch/{script} " in done.stdout and "SBATCH" not in done.stdout and not done.stderr


def test_each_config_and_argument_has_its_own_run_name():
    """An argument may be a path, such as that of the run that this one starts from."""
    name = lambda text: subprocess.run(
        ["bash", "-c", '. launch/env.sh && run_name "$1"', "-", text],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert name("configs/dias_scenes.py") == "dias_scenes"
    assert (
        name("configs/iais.py:start=runs/start-0,alignment=none") == "iais_start_runs_start-0_alignment_none"
    )


def test_a_failed_installation_is_repeated(sandbox):
    command = ["bash", "-c", ". launch/env.sh && make_env tpu,gcs || echo failed"]  # as a TPU's workers do
    for broken in (True, False):
        if broken:
            (sandbox.fake / "broken").touch()
        output = sandbox.shell(command, os.environ["PATH"]).stdout
        assert ("failed" in output) == broken
    assert len(sandbox.calls("uv pip install")) == 2
    (sandbox.fake / "broken").touch()
    assert sandbox.run("local.sh").returncode == 1 and not sandbox.calls("trainer")


@pytest.mark.parametrize("status", [143, 75, 137])
def test_a_slurm_job_that_ran_out_of_time_or_lost_a_process_is_queued_again(sandbox, status):
    assert sandbox.run("slurm.sbatch", *SLURM, ends=(status,)).returncode == 0
    assert sandbox.calls("sbatch --nodes=4 --time=1:00 launch/slurm.sbatch --workdir runs/x")
    assert sandbox.calls(f"srun --kill-on-bad-exit=1 --cpus-per-task=8 .venv/bin/python -m jax_itm {TRAIN}")
    assert sandbox.calls("scontrol requeue 7")
    (sandbox.fake / "calls").unlink()
    assert sandbox.run("slurm.sbatch", *SLURM, ends=(2,)).returncode == 2
    assert sandbox.run("slurm.sbatch", *SLURM, ends=(status,), SLURM_RESTART_COUNT="100").returncode == 2
    assert not sandbox.calls("scontrol")
