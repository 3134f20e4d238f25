"""A preparation that is killed, and two at once."""

import os
import signal
import subprocess
import sys

import pytest

from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.errors import UserError
from tests.helpers.precomp import write_precomp

# Writes half of the second split, then waits to be killed.
HALF = """
import sys, time
from jax_itm.data import tfds_builder
from jax_itm.data.preparation import prepare

def stall(self, split, original=tfds_builder.Builder._generate_examples):
    for k, example in enumerate(original(self, split)):
        if split == "dev" and k == 2:
            print("half", flush=True, file=sys.stderr)
            time.sleep(600)
        yield example

tfds_builder.Builder._generate_examples = stall
prepare("precomp", sys.argv[1], sys.argv[2])
"""


def killed(data_dir, source) -> None:
    """A preparation that SIGKILL ends in the middle of writing."""
    command = [sys.executable, "-c", HALF, str(data_dir), str(source)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any("half" in line for line in process.stderr)
        with pytest.raises(UserError, match="precomp: another process is preparing it"):
            prepare("precomp", data_dir, source)
        process.send_signal(signal.SIGKILL)


def test_killed_preparation_is_made_good_by_the_next(tmp_path):
    write_precomp(tmp_path / "raw")
    killed(tmp_path / "data", tmp_path / "raw")
    left = os.listdir(tmp_path / "data" / "precomp")
    assert left and "1.0.0" not in left
    with pytest.raises(UserError, match="is not prepared"):
        open_split("precomp", tmp_path / "data", "train", "regions")
    facts = prepare("precomp", tmp_path / "data", tmp_path / "raw")
    assert not facts["reused"] and facts["splits"]["dev"]["images"] == 4
    assert os.listdir(tmp_path / "data" / "precomp") == ["1.0.0"]
    assert len(open_split("precomp", tmp_path / "data", "dev", "regions").record(3)["captions"]) == 5
