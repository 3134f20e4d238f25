"""The launchers: shellcheck, dry runs, and real runs against stand-ins for gcloud, kubectl and SLURM."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.helpers.launchers import Sandbox
from tests.helpers.paths import ROOT

SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / "launch" / "slurm.sbatch"])
RUN = ("configs/dias_scenes.py:a=b", "--config.seed=1", "--config.optimizer.lr_factors=(('^text/', 0.1),)")
TRAIN = "train --config configs/dias_scenes.py:a=b"
TPU = (
    "--name",
    "itm",
    "--zone",
    "z",
    "--type",
    "v5litepod-32",
    "--workdir",
    "gs://b/run",
    "--wait",
    "0",
    *RUN,
)
GKE = (
    "--name",
    "itm",
    "--image",
    "r/itm",
    "--workdir",
    "gs://b/run",
    "--data",
    "gs://d/sets",
    "--wait",
    "0",
    *RUN,
)
SLURM = ("--workdir", "runs/x", "--sbatch", "--nodes=4 --time=1:00", *RUN)


@pytest.fixture
def sandbox(tmp_path) -> Sandbox:
    return Sandbox(tmp_path)


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


def test_a_preempted_slice_is_created_again_and_the_run_resumes(sandbox):
    for fault in ("preempted", "deaf"):
        (sandbox.fake / fault).touch()
    done = sandbox.run("tpu_vm.sh", *TPU, "--data", "gs://d/sets", ends=(143, 0))
    assert not done.returncode, done.stderr
    assert "itm: preempted; starting again" in done.stdout and "checkpoints   gs://b/run" in done.stdout
    assert "no route to host" in done.stderr
    assert len(sandbox.calls("gcloud compute tpus queued-resources create itm")) == 2
    assert sandbox.calls("queued-resources create itm", "--runtime-version v2-alpha-tpuv5-lite --spot")
    assert (
        len(sandbox.calls("queued-resources delete itm --zone z --quiet --force")) == 2
    )  # preempted; given back
    assert len(sandbox.calls("storage rsync --recursive gs://d/sets data")) >= 2
    trained = sandbox.calls("trainer -m jax_itm train")
    assert trained == 2 * [
        f"trainer -m jax_itm {TRAIN} --config.seed=1 --config.optimizer.lr_factors=(('^text/', 0.1),)"
        " --workdir gs://b/run --config.data.data_dir=data"
    ]
    assert "step 1" in done.stdout


@pytest.fixture
def existing_slice(sandbox):
    (sandbox.fake / "state").write_text("ACTIVE\n")
    (sandbox.fake / "worker").mkdir()
    return sandbox


def test_an_existing_slice_is_used_and_wrong_input_is_not_tried_again(existing_slice):
    sandbox = existing_slice
    done = sandbox.run("tpu_vm.sh", *TPU, ends=(0, 2))  # prepare; train
    assert done.returncode == 2 and "tpu_vm.sh: the input was refused" in done.stderr
    assert not sandbox.calls("queued-resources create") and not sandbox.calls("queued-resources delete")
    assert (
        len(sandbox.calls("trainer -m jax_itm prepare"))
        == len(sandbox.calls("trainer -m jax_itm train"))
        == 1
    )


def test_a_broken_connection_is_not_a_failure(existing_slice):
    sandbox = existing_slice
    for fault in ("cut", "slow"):
        (sandbox.fake / fault).touch()
    done = sandbox.run("tpu_vm.sh", *TPU, "--data", "gs://d/sets", "--tries", "1", ends=(0,))
    assert not done.returncode, done.stderr
    assert len(sandbox.calls("trainer -m jax_itm train")) == 1 and "starting again" not in done.stdout


def test_a_failing_training_is_tried_as_often_as_configured(existing_slice):
    sandbox = existing_slice
    done = sandbox.run("tpu_vm.sh", *TPU, "--data", "gs://d/sets", "--tries", "2", ends=(75, 1))
    assert done.returncode == 1 and "tpu_vm.sh: failed 2 times, see above; itm is kept" in done.stderr
    assert "itm: ended with status 75" in done.stdout
    assert len(sandbox.calls("trainer -m jax_itm train")) == 2
    assert (sandbox.fake / "worker" / "jax_itm" / "earlier.log").read_text() == "step 1\n"


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


def test_a_jobset_is_followed_to_its_end(sandbox):
    done = sandbox.run("gke.sh", *GKE, ends=("", "StartupPolicyCompleted", "Completed"))
    assert done.returncode == 0, done.stderr
    logs = sandbox.calls("kubectl logs --follow --tail -1")
    assert len(logs) == 3 and "step 1" in done.stdout
    assert ["--since-time" in line for line in logs] == [
        False,
        True,
        True,
    ]  # what was shown is not shown again
    check_jobset(yaml.safe_load((sandbox.fake / "jobset.yaml").read_text()))


def test_where_a_jobset_runs_and_what_it_may_take(sandbox):
    more = (
        "--queue",
        "team",
        "--context",
        "c1",
        "--namespace",
        "n1",
        "--memory",
        "32Gi",
        "--shm",
        "4Gi",
        "--cpu",
        "6",
    )
    done = sandbox.run("gke.sh", *GKE, *more, ends=("Completed",))
    assert done.returncode == 0, done.stderr
    calls = sandbox.calls("kubectl")
    assert calls and all("--context c1 --namespace n1" in call for call in calls)
    jobset = yaml.safe_load((sandbox.fake / "jobset.yaml").read_text())
    assert jobset["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
    assert jobset["spec"]["ttlSecondsAfterFinished"] == 86400
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    assert resources["requests"] == {"cpu": 6, "memory": "32Gi"} and resources["limits"]["memory"] == "32Gi"
    assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}


def test_a_slice_is_not_requested_forever(sandbox):
    (sandbox.fake / "preempted").touch()
    done = sandbox.run("tpu_vm.sh", *TPU, "--slices", "1", "--unattended", ends=(0, 143))
    assert done.returncode == 1 and "tpu_vm.sh: preempted too often, see above\n" in done.stderr
    assert len(sandbox.calls("queued-resources create itm")) == 1
    assert len(sandbox.calls("queued-resources delete itm")) == 1


def test_a_run_outlives_the_terminal_that_started_it(sandbox):
    done = sandbox.run("tpu_vm.sh", *TPU, "--data", "gs://d/sets", "--account", "a@b", "--detach")
    assert not done.returncode, done.stderr
    assert "gcloud storage cat gs://b/run/launch/launch.log" in done.stdout
    [create] = sandbox.calls("compute instances create itm-launcher --zone z --quiet")
    for part in ("jax-itm-launch=gs://b/run/launch", "startup-script=launch/tpu_launcher.sh", "account a@b"):
        assert part in create
    assert not sandbox.calls("queued-resources")

    (sandbox.fake / "preempted").touch()
    (sandbox.fake / "home").mkdir()
    done = sandbox.run("tpu_launcher.sh", ends=(143, 0), HOME=str(sandbox.fake / "home"))
    assert not done.returncode, done.stderr
    log = (sandbox.fake / "bucket" / "b" / "run" / "launch" / "launch.log").read_text()
    assert "itm: preempted; starting again" in log and log.endswith("tpu_vm.sh ended with status 0\n")
    assert len(sandbox.calls("queued-resources create itm")) == 2
    assert sandbox.calls("trainer -m jax_itm train")[1] == (
        f"trainer -m jax_itm {TRAIN} --config.seed=1 --config.optimizer.lr_factors=(('^text/', 0.1),)"
        " --workdir gs://b/run --config.data.data_dir=data"
    )
    assert sandbox.calls("compute instances delete itm-launcher --zone z --quiet")


def test_whose_slice_it_is(sandbox):
    more = (
        "--project",
        "p1",
        "--account",
        "a@b",
        "--network",
        "n",
        "--labels",
        "team=x",
        "--keep",
        "--dry_run",
    )
    done = sandbox.run("tpu_vm.sh", *TPU, *more)
    assert done.returncode == 0, done.stderr
    create = next(line for line in done.stdout.splitlines() if "create itm" in line)
    for part in ("--project p1", "--service-account a@b", "--network n", "--labels team=x"):
        assert part in create
    assert "delete itm" not in done.stdout


def test_what_stands_in_a_jobset_is_what_was_typed(sandbox):
    typed = """--config.name=a: "b" \\ {c}, #d & ${shm} 'e' |\u00e9"""
    done = sandbox.run("gke.sh", *GKE, typed, ends=("Completed",))
    assert done.returncode == 0, done.stderr
    jobset = yaml.safe_load((sandbox.fake / "jobset.yaml").read_text())
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"][-2] == typed


def test_a_failed_jobset_is_created_again(sandbox):
    done = sandbox.run("gke.sh", *GKE, ends=("Failed",))
    assert done.returncode == 2 and "itm has failed, see above" in done.stderr
    assert not sandbox.calls("kubectl delete")
    assert sandbox.run("gke.sh", *GKE, ends=("Failed", "Completed")).returncode == 0
    assert len(sandbox.calls("kubectl delete jobset itm")) == 1


def closed(required: str, **properties) -> dict:
    """The schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def check_jobset(jobset: dict) -> None:
    """The fields that gke.yaml uses, by the names and types of jobset.x-k8s.io/v1alpha2 and batch/v1.

    A subset, written after the JobSet's published schema: a field that is not here is refused.
    """
    text, number = {"type": "string"}, {"type": "integer", "minimum": 0}
    items = lambda schema: {"type": "array", "items": schema, "minItems": 1}
    names = {"type": "object", "additionalProperties": text}
    container = closed(
        "name image args resources",
        name={"pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
        image=text,
        args=items(text),
        ports=items(closed("containerPort", containerPort=number)),
        resources=closed("limits", limits={"type": "object"}, requests={"type": "object"}),
        volumeMounts=items(closed("name mountPath", name=text, mountPath=text, readOnly={"type": "boolean"})),
    )
    csi = closed("driver", driver=text, readOnly={"type": "boolean"}, volumeAttributes=names)
    pod = closed(
        "containers restartPolicy",
        restartPolicy={"enum": ["Never"]},  # what a podFailurePolicy needs
        securityContext=closed("runAsNonRoot", runAsNonRoot={"const": True}),
        terminationGracePeriodSeconds=number,
        serviceAccountName=text,
        nodeSelector=names,
        containers=items(container),
        volumes=items(
            closed("name", name=text, csi=csi, emptyDir=closed("medium", medium=text, sizeLimit=text))
        ),
    )
    exits = closed("operator values", containerName=text, operator={"enum": ["In"]}, values=items(number))
    rule = closed("action onExitCodes", action={"enum": ["FailJob"]}, onExitCodes=exits)
    job = closed(
        "parallelism completions completionMode template",
        parallelism=number,
        completions=number,
        completionMode={"enum": ["Indexed"]},
        backoffLimit=number,
        podFailurePolicy=closed("rules", rules=items(rule)),
        template=closed("spec", metadata=closed("", annotations=names), spec=pod),
    )
    failed = closed("action", action={"enum": ["FailJobSet"]}, onJobFailureReasons=items(text))
    replicated = closed(
        "name replicas template", name=text, replicas=number, template=closed("spec", spec=job)
    )
    schema = closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
        kind={"const": "JobSet"},
        metadata=closed("name", name=text, annotations=names, labels=names),
        spec=closed(
            "replicatedJobs",
            ttlSecondsAfterFinished=number,
            failurePolicy=closed("maxRestarts", maxRestarts=number, rules=items(failed)),
            replicatedJobs=items(replicated),
        ),
    )
    jsonschema.validate(jobset, schema)
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    inside = spec["template"]["spec"]["containers"][0]
    assert spec["parallelism"] == spec["completions"] == 8
    assert inside["resources"]["limits"] == {"google.com/tpu": 4, "memory": "64Gi"}
    assert inside["args"] == [
        *TRAIN.split(),
        *("--workdir", "gs://b/run", *RUN[1:], "--config.data.data_dir=/buckets/d/sets"),
    ]
    assert inside["volumeMounts"][0]["mountPath"] == "/buckets/d"
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == inside["name"]
