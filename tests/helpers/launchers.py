"""A copy of the launchers beside stand-ins for gcloud, kubectl, SLURM and what they start.

Each stand-in notes how it was called in $FAKE/calls. What is to go wrong is a file in $FAKE, which goes once
it has: gcloud cannot tell how a slice is (deaf); an installation fails (broken); a training takes a second
more (slow); while its log is followed, the connection breaks off (cut), or the slice is taken away
(preempted), which its machines tell before its request does.
"""

import os
import shutil
import subprocess
from pathlib import Path

from tests.helpers.paths import ROOT

# A worker of the slice is a folder, which goes with the slice; what is sent to it is done there.
GCLOUD = r"""
state=$FAKE/state worker=$FAKE/worker
goes() { [ -e "$FAKE/$1" ] && rm "$FAKE/$1"; }
case "$*" in
*describe*)
  if [ -e "$state" ] && goes deaf; then echo "ERROR: no route to host" >&2; exit 1; fi
  [ -e "$state" ] || { echo "ERROR: NOT_FOUND: Resource 'itm' was not found" >&2; exit 1; } ;;&
*"queued-resources describe"*)
  if [ "$(cat "$state")" = PREEMPTED ]; then echo ACTIVE; else cat "$state"; fi
  sed -i s/WAITING_FOR_RESOURCES/ACTIVE/ "$state" ;;
*"tpu-vm describe"*) sed s/ACTIVE/READY/ "$state" ;;
*"queued-resources create"*)
  rm -rf "$worker" && mkdir "$worker" && echo WAITING_FOR_RESOURCES >"$state" ;;
*"queued-resources delete"*) rm "$state" ;;
*"tpu-vm scp"*) cp "$5" "$worker/${6#*:}" ;;
*"tpu-vm ssh"*)
  if [[ $* == *"tail -n +1"* ]]; then
    if goes cut; then exit 255; fi
    if goes preempted; then echo PREEMPTED >"$state"; fi
  fi
  [ "$(cat "$state")" = ACTIVE ] || exit 255
  cd "$worker" && HOME=$worker bash -c "${@: -1}" ;;
esac
"""
FAKES = {
    "gcloud": GCLOUD,
    "python3": "",
    "uv": r"""
if [ "$1" = venv ]; then mkdir -p .venv/bin && cp "$FAKE/bin/trainer" .venv/bin/python; fi
if [ "$1" = pip ] && [ -e "$FAKE/broken" ]; then rm "$FAKE/broken" && exit 1; fi""",
    # Ends with the statuses in $FAKE/ends, one after the other.
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
TOOLS = ("env", "bash", "dirname", "rm", "mktemp", "tar")  # what a launcher needs before it looks for others


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

    def run(
        self, script: str, *words: str, ends: tuple = (), without: str = "", **given: str
    ) -> subprocess.CompletedProcess:
        """A launcher, whose trainings have these `ends`, on a machine `without` a program."""
        (self.fake / "ends").write_text("".join(f"{end}\n" for end in ends))
        path = os.environ["PATH"]
        if without:
            (self.fake / "bin" / without).unlink()
            for name in TOOLS:
                (self.fake / "bin" / name).symlink_to(shutil.which(name) or name)
            path = ""
        return self.shell([str(self.tree / "launch" / script), *words], path, **given)

    def shell(self, command: list[str], path: str, **given: str) -> subprocess.CompletedProcess:
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "JAX_", "XLA_"))}
        return subprocess.run(
            command,
            cwd=self.tree,
            env=outside | {"PATH": f"{self.fake / 'bin'}:{path}", "FAKE": str(self.fake)} | given,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def calls(self, *parts: str) -> list[str]:
        """The calls with all of `parts` in them."""
        noted = self.fake / "calls"
        lines = noted.read_text().splitlines() if noted.exists() else []
        return [line for line in lines if all(part in line for part in parts)]
