"""The code that a run was made with is beside it."""

import subprocess

from jax_itm.train.provenance import describe, record
from jax_itm.version import __version__


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_commit_difference_and_new_files(tmp_path):
    (tmp_path / "jax_itm").mkdir()
    file = tmp_path / "jax_itm" / "a.py"
    file.write_text("one\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert describe(tmp_path).splitlines()[1:] == [f"# commit {commit}"]
    file.write_text("two\n")
    (tmp_path / "jax_itm" / "new.py").write_text("")
    lines = describe(tmp_path).splitlines()
    assert lines[2] == "# not in git: jax_itm/new.py" and "-one" in lines and "+two" in lines


def test_without_a_checkout_the_version_and_a_hash(tmp_path):
    lines = describe(tmp_path).splitlines()
    assert lines[0].startswith(f"# jax_itm {__version__}, files ") and lines[1:] == ["# no git checkout"]
    record(str(tmp_path / "run"), 40)
    assert (tmp_path / "run" / "code" / "40.patch").read_text().startswith("# jax_itm")
