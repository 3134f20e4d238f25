"""A copy of the launchers beside stand-ins for gcloud, kubectl, SLURM and what these start.

Each stand-in records its calls in $FAKE/calls. A fault is a file in $FAKE, which is removed when the fault
has happened: gcloud cannot query a slice (deaf); an installation fails (broken); a training takes a second
longer (slow); while its log is followed, the connection breaks (cut), or the slice is preempted (preempted),
which its machines report before its request does.
"""

import os
import shutil
import subprocess
from pathlib import Path

from tests.helpers.paths import ROOT

# A worker of the slice is a directory, which is deleted with the slice; commands for it run there.
GCLOUD = r"""
state=$FAKE/state worker=$FAKE/worker
fault() { [ -e "$FAKE/$1" ] && rm "$FAKE/$1"; }
case "$*" in
*describe*)
  if [ -e "$state" ] && fault deaf; then echo "ERROR: no route to host" >&2; exit 1; fi
  [ -e "$state" ] || { echo "ERROR: NOT_FOUND: Resource 'itm' was not found" >&2; exit 1; } ;;&
*"queued-resources describe"*)
  if [ "$(cat "$state")" = PREEMPTED ]; then echo ACTIVE; else cat "$state"; fi
  sed -i s/WAITING_FOR_RESOURCES/ACTIVE/ "$state" ;;
*"tpu-vm describe"*) sed s/ACTIVE/READY/ "$state" ;;
*"queued-resources create"*)
  rm -rf "$worker" && mkdir "$worker" && echo WAITING_FOR_RESOURCES >"$state" ;;
*"queued-resources delete"*) rm "$state" ;;
*"tpu-vm scp"*) cp "${@:5:3}" "$worker" ;;
*"storage cp"*)
  for word in "${@:3}"; do words+=("${word/#gs:\/\//$FAKE/bucket/}"); done
  mkdir -p "$(dirname "${words[-1]}")" && cp "${words[@]}" ;;
*"tpu-vm ssh"*)
  if [[ $* == *"follow +1"* ]]; then
    if fault cut; then exit 255; fi
    if fault preempted; then echo PREEMPTED >"$state"; fi
  fi
  [ "$(cat "$state")" = ACTIVE ] || exit 255
  cd "$worker" && HOME=$worker bash -c "${@: -1}" ;;
esac
"""
FAKES = {
    "gcloud": GCLOUD,
    "python3": "",
    # The metadata server of a machine.
    "curl": r"""
case "$*" in
*/jax-itm-launch) echo gs://b/run/launch ;;
*/zone) echo projects/1/zones/z ;;
*/name) echo itm-launcher ;;
esac""",
    "uv": r"""
if [ "$1" = venv ]; then mkdir -p .venv/bin && cp "$FAKE/bin/trainer" .venv/bin/python; fi
if [ "$1" = pip ] && [ -e "$FAKE/broken" ]; then rm "$FAKE/broken" && exit 1; fi""",
    # Ends with the statuses in $FAKE/ends, one after another.
    "trainer": r"""
echo "step 1"; end=$(head -n 1 "$FAKE/ends"); sed -i 1d "$FAKE/ends"
while [ -e "$FAKE/slow" ]; do rm "$FAKE/slow"; sleep 1; done
exit "$end" """,
    "sbatch": r"""
while [[ $1 == --* ]]; do shift; done
cp "$1" "$FAKE/spooled"
SLURM_CPUS_PER_TASK=8 SLURM_JOB_ID=7 SLURM_SUBMIT_DIR=$PWD bash "$FAKE/spooled" "${@:2}" """,
    "srun": r"""while [[ $1 == --* ]]; do shift; done; "$@" """,
    "scontrol": "",
    "docker": "",
    "kubectl": r"""
case $1 in
apply) cat >"$FAKE/jobset.yaml" ;;
delete) rm "$FAKE/jobset.yaml" ;;
logs) echo "step 1" ;;
get) if [ -e "$FAKE/jobset.yaml" ]; then echo "itm $(head -n 1 "$FAKE/ends")"; sed -i 1d "$FAKE/ends"; fi ;;
esac
""",
}
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
TOOLS = ("env", "bash", "dirname", "rm", "mktemp", "tar")  # needed before a launcher looks for other programs


class Sandbox:
    """A copy of the launchers beside stand-ins that record how they are called.

    Attributes:
        tree: the copy of the project.
        fake: the directory of the stand-ins' state ($FAKE).
    """

    def __init__(self, folder: Path):
        self.tree = folder / "tree"
        self.fake = folder / "fake"
        shutil.copytree(ROOT / "launch", self.tree / "launch")
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.tree)
        (self.fake / "bin").mkdir(parents=True)
        for name, script in FAKES.items():
            file = self.fake / "bin" / name
            file.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"$FAKE/calls"\n{script}\n')
            file.chmod(0o755)

    def run(
        self, script: str, *words: str, ends: tuple = (), without: str = "", **environment: str
    ) -> subprocess.CompletedProcess:
        """Runs a launcher, whose trainings have these `ends`, on a machine `without` a program."""
        (self.fake / "ends").write_text("".join(f"{end}\n" for end in ends))
        path = os.environ["PATH"]
        if without:
            (self.fake / "bin" / without).unlink()
            for name in TOOLS:
                (self.fake / "bin" / name).symlink_to(shutil.which(name) or name)
            path = ""
        return self.shell([str(self.tree / "launch" / script), *words], path, **environment)

    def shell(self, command: list[str], path: str, **environment: str) -> subprocess.CompletedProcess:
        """Runs a command in the copy, where it finds the stand-ins before the programs of `path`."""
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "JAX_", "XLA_"))}
        inside = {"PATH": f"{self.fake / 'bin'}:{path}", "FAKE": str(self.fake)}
        return subprocess.run(
            command,
            cwd=self.tree,
            env=outside | inside | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def calls(self, *parts: str) -> list[str]:
        """The recorded calls that contain all of `parts`."""
        record = self.fake / "calls"
        lines = record.read_text().splitlines() if record.exists() else []
        return [line for line in lines if all(part in line for part in parts)]
