"""The launchers: shellcheck, dry runs, and real runs against stand-ins for gcloud, kubectl and SLURM."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import ROOT

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

# Each notes how it was called in $FAKE/calls. A worker of the slice is a folder, which goes with the slice;
# what is sent to it is done there. The slice is taken away once, while its log is followed.
GCLOUD = r"""
state=$FAKE/state worker=$FAKE/worker
case "$*" in
*"queued-resources describe"*)
  cat "$state" && sed -i s/WAITING_FOR_RESOURCES/ACTIVE/ "$state" ;;
*"queued-resources create"*)
  rm -rf "$worker" && mkdir "$worker" && echo WAITING_FOR_RESOURCES >"$state" ;;
*"queued-resources delete"*) rm "$state" ;;
*"tpu-vm scp"*) cp "$5" "$worker/${6#*:}" ;;
*"tpu-vm ssh"*)
  if [[ $* == *"tail "* && ! -e $FAKE/preempted ]]; then
    touch "$FAKE/preempted"
    echo SUSPENDED >"$state"
  fi
  [ "$(cat "$state")" = ACTIVE ] || exit 255
  cd "$worker" && HOME=$worker bash -c "${@: -1}" ;;
esac
"""
FAKES = {
    "gcloud": GCLOUD,
    "python3": "",
    "uv": r"""if [ "$1" = venv ]; then mkdir -p .venv/bin && cp "$FAKE/bin/trainer" .venv/bin/python; fi""",
    # Ends with the statuses in $FAKE/ends, one after the other.
    "trainer": r"""echo "step 1"; end=$(head -n 1 "$FAKE/ends"); sed -i 1d "$FAKE/ends"; exit "$end" """,
    "sbatch": r"""
while [[ $1 == --* ]]; do shift; done
cp "$1" "$FAKE/spooled" && SLURM_JOB_ID=7 SLURM_SUBMIT_DIR=$PWD bash "$FAKE/spooled" "${@:2}" """,
    "srun": r"""shift; "$@" """,
    "scontrol": "",
    "docker": "",
    "kubectl": r"""
case $1 in
apply) cat >"$FAKE/jobset.yaml" ;;
logs) echo "step 1" ;;
get) head -n 1 "$FAKE/ends"; sed -i 1d "$FAKE/ends" ;;
esac
""",
}


class Place:
    """A copy of the launchers beside stand-ins that note how they are called."""

    def __init__(self, folder: Path):
        self.tree, self.fake = folder / "tree", folder / "fake"
        shutil.copytree(ROOT / "launch", self.tree / "launch")
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.tree)
        (self.fake / "bin").mkdir(parents=True)
        for name, does in FAKES.items():
            file = self.fake / "bin" / name
            file.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"$FAKE/calls"\n{does}\n')
            file.chmod(0o755)

    def run(self, script: str, *words: str, ends: tuple = ()) -> subprocess.CompletedProcess:
        (self.fake / "ends").write_text("".join(f"{end}\n" for end in ends))
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "JAX_", "XLA_"))}
        path = f"{self.fake / 'bin'}:{outside['PATH']}"
        return subprocess.run(
            [str(self.tree / "launch" / script), *words],
            **{"env": outside | {"PATH": path, "FAKE": str(self.fake)}, "capture_output": True, "text": True},
            timeout=120,
        )

    def calls(self, *parts: str) -> list[str]:
        """The calls with all of `parts` in them."""
        noted = self.fake / "calls"
        lines = noted.read_text().splitlines() if noted.exists() else []
        return [line for line in lines if all(part in line for part in parts)]


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


def tool(name: str) -> str:
    """Where a linter is; skips where it is not installed."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return found or pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_is_clean(script):
    assert os.access(script, os.X_OK) or script.name == "env.sh"
    subprocess.run(["bash", "-n", script], check=True)
    done = subprocess.run([tool("shellcheck"), "-x", script], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stdout


def test_dockerfile():
    file = ROOT / "launch" / "Dockerfile"
    for line in file.read_text().splitlines():
        if line.startswith("COPY"):
            assert all((ROOT / name).exists() for name in line.split()[1:-1])
    done = subprocess.run([tool("hadolint"), file], capture_output=True, text=True)
    assert not done.returncode, done.stdout


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("local.sh", ("--devices", "4", *RUN), ["device_count=4", ".venv/bin/python -m jax_itm " + TRAIN]),
        (
            "tpu_vm.sh",
            TPU,
            ["queued-resources create itm --zone z", "--spot", "--worker all", TRAIN, "delete itm"],
        ),
        ("slurm.sbatch", SLURM, ["sbatch --nodes=4 --time=1:00 launch/slurm.sbatch", "srun", TRAIN]),
        (
            "gke.sh",
            (*GKE, "--build", "yes"),
            ["docker push r/itm", "kubectl apply", "kind: JobSet", '"train"'],
        ),
    ],
)
def test_dry_run_prints_all_and_runs_nothing(place, script, words, said):
    before = sorted(place.tree.rglob("*"))
    done = place.run(script, *words, "--dry_run")
    assert not done.returncode, done.stderr
    assert all(part in done.stdout for part in said), done.stdout
    assert "lr_factors" in done.stdout
    assert not place.calls() and sorted(place.tree.rglob("*")) == before


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("local.sh", ("--device", "4"), "local.sh: --device: not an option; there are dry_run devices"),
        ("local.sh", ("--devices",), "local.sh: --devices: needs a value"),
        ("tpu_vm.sh", ("--name", "itm", "c.py"), "tpu_vm.sh: zone: needed"),
        ("tpu_vm.sh", [*TPU, "--workdir", "runs/x"], "--workdir runs/x: must be gs://"),
        ("slurm.sbatch", ("--workdir", "runs/x"), "slurm.sbatch: CONFIG: needed"),
        ("gke.sh", [*GKE, "--data", "data"], "--data data: must be in a bucket, gs://"),
    ],
)
def test_wrong_words_are_refused(place, script, words, said):
    done = place.run(script, *words)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not place.calls()


def test_preempted_slice_is_made_anew_and_the_run_goes_on(place):
    done = place.run("tpu_vm.sh", *TPU, "--data", "gs://d/sets", ends=(143, 0))
    assert not done.returncode, done.stderr
    assert "itm: preempted; once more" in done.stdout and "checkpoints   gs://b/run" in done.stdout
    assert len(place.calls("gcloud compute tpus queued-resources create itm")) == 2
    assert (
        len(place.calls("queued-resources delete itm --zone z --quiet --force")) == 2
    )  # preempted; given back
    assert len(place.calls("storage rsync --recursive gs://d/sets data")) >= 2
    trained = place.calls("trainer -m jax_itm train")
    assert trained == 2 * [
        f"trainer -m jax_itm {TRAIN} --config.seed=1 --config.optimizer.lr_factors=(('^text/', 0.1),)"
        " --workdir gs://b/run --config.data.data_dir=data"
    ]
    assert "step 1" in done.stdout


def test_slice_that_is_there_is_taken_and_wrong_input_is_not_tried_again(place):
    (place.fake / "state").write_text("ACTIVE\n")
    (place.fake / "preempted").touch()
    (place.fake / "worker").mkdir()
    done = place.run("tpu_vm.sh", *TPU, ends=(0, 2))  # prepare; train
    assert done.returncode == 2 and "training refused its input" in done.stderr
    assert not place.calls("queued-resources create") and not place.calls("queued-resources delete")
    assert len(place.calls("trainer -m jax_itm prepare")) == len(place.calls("trainer -m jax_itm train")) == 1


def test_slurm_job_that_ran_out_of_time_queues_again(place):
    assert place.run("slurm.sbatch", *SLURM, ends=(143,)).returncode == 0
    assert place.calls("sbatch --nodes=4 --time=1:00 launch/slurm.sbatch --workdir runs/x")
    assert place.calls(f"srun --kill-on-bad-exit=1 .venv/bin/python -m jax_itm {TRAIN}")
    assert place.calls("scontrol requeue 7")
    (place.fake / "calls").unlink()
    assert place.run("slurm.sbatch", *SLURM, ends=(2,)).returncode == 2
    assert not place.calls("scontrol")


def test_jobset_is_followed_to_its_end(place):
    done = place.run("gke.sh", *GKE, ends=("", "StartupPolicyCompleted", "Completed"))
    assert done.returncode == 0, done.stderr
    assert len(place.calls("kubectl logs --follow")) == 3 and "step 1" in done.stdout
    check_jobset(yaml.safe_load((place.fake / "jobset.yaml").read_text()))
    assert place.run("gke.sh", *GKE, ends=("Failed",)).returncode == 2


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
        resources=closed("limits", limits={"type": "object"}),
        volumeMounts=items(closed("name mountPath", name=text, mountPath=text, readOnly={"type": "boolean"})),
    )
    csi = closed("driver", driver=text, readOnly={"type": "boolean"}, volumeAttributes=names)
    pod = closed(
        "containers restartPolicy",
        restartPolicy={"enum": ["Never"]},  # what a podFailurePolicy needs
        terminationGracePeriodSeconds=number,
        serviceAccountName=text,
        nodeSelector=names,
        containers=items(container),
        volumes=items(closed("name csi", name=text, csi=csi)),
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
        metadata=closed("name", name=text, annotations=names),
        spec=closed(
            "replicatedJobs",
            failurePolicy=closed("maxRestarts", maxRestarts=number, rules=items(failed)),
            replicatedJobs=items(replicated),
        ),
    )
    jsonschema.validate(jobset, schema)
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    inside = spec["template"]["spec"]["containers"][0]
    assert spec["parallelism"] == spec["completions"] == 8
    assert inside["resources"]["limits"] == {"google.com/tpu": 4}
    assert inside["args"] == [
        *TRAIN.split(),
        *("--workdir", "gs://b/run", *RUN[1:], "--config.data.data_dir=/buckets/d/sets"),
    ]
    assert inside["volumeMounts"][0]["mountPath"] == "/buckets/d"
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == inside["name"]
