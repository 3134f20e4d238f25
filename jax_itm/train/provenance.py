"""Stores the code that a run was made with, so that the run can be reproduced."""

import subprocess
from pathlib import Path

from jax_itm.distributed.preflight import code_hash
from jax_itm.storage import as_path
from jax_itm.version import __version__

ROOT = Path(__file__).parents[2]  # of the checkout, if it is one
GIT_SECONDS = 30


def record(workdir: str, step: int) -> None:
    """Writes `code/STEP.patch` for a start at `step`: the commit, and what differs from it.

    Without a checkout it has the version and a hash of the package's files.
    """
    file = as_path(workdir) / "code" / f"{step}.patch"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(describe(ROOT))


def describe(root: Path) -> str:
    """The lines of that file; those before the diff begin with #."""
    head = f"# jax_itm {__version__}, files {code_hash()}\n"
    commit = _git(root, "rev-parse", "HEAD")
    if not commit or not (root / ".git").exists():  # an installed package
        return head + "# no git checkout\n"
    untracked = _git(root, "ls-files", "--others", "--exclude-standard", "jax_itm", "configs").split()
    names = "".join(f"# not in git: {name}\n" for name in untracked)
    return f"{head}# commit {commit.strip()}\n{names}{_git(root, 'diff', 'HEAD')}"


def _git(root: Path, *words: str) -> str:
    """What git answers; "" where there is no git, or it fails."""
    command = ["git", "-C", str(root), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
