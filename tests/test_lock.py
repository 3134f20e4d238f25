"""One training at a time in a work directory."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from jax_itm.errors import UserError
from jax_itm.lock import FILE, locked

HOLD = """
import sys, time
from jax_itm.lock import locked
with locked(sys.argv[1], "training"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_another_process_is_named_and_a_killed_one_holds_nobody_up(tmp_path):
    workdir = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(workdir)], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        holder = f"another training runs there, process {process.pid} on {socket.gethostname()} since "
        with pytest.raises(UserError, match=holder) as error, locked(str(workdir), "training"):
            pass
        assert str(workdir) in str(error.value) and "\n" not in str(error.value)
        process.send_signal(signal.SIGKILL)
    assert (workdir / FILE).exists()  # left behind
    with locked(str(workdir), "training"):
        assert f"process {os.getpid()} on" in (workdir / FILE).read_text()
    assert not (workdir / FILE).exists()


def test_a_run_that_could_not_start_leaves_nothing(tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match="wrong"), locked(str(workdir), "training"):
        raise UserError("wrong")
    assert not workdir.exists()
    with locked(str(workdir), "training"):
        (workdir / "config.json").write_text("{}")
    assert os.listdir(workdir) == ["config.json"]
    (workdir / "config.json").unlink()
    with locked(str(workdir), "training"):  # a folder that was there before stays
        pass
    assert workdir.exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(str(tmp_path / "run"), "training"):
        pass
