"""The shared memory through which reader processes pass batches is given back before Python ends."""

import subprocess
import sys

from tests.helpers.paths import ROOT

SCRIPT = """
import sys
import time

import grain
import numpy as np
from grain._src.python.ipc import shared_memory_array

from jax_itm.data import readers


class Source:
    def __len__(self):
        return 10**6

    def __getitem__(self, k):
        return [np.full((200, 200), k, np.float32) for _ in range(5)]


if __name__ == "__main__":
    delete = shared_memory_array._del_shm
    # As on a busy machine, where Grain's thread is late.
    shared_memory_array._del_shm = lambda *args: (time.sleep(0.2), delete(*args))
    dataset = grain.MapDataset.source(Source()).to_iter_dataset(grain.ReadOptions(1, 2))
    batches = readers.read_in_processes(dataset, 1)
    batch = [next(batches) for _ in range(2)]
    batches.close()
    del batch, batches
    if sys.argv[1] == "wait":
        readers.give_memory_back()
"""


def said(tmp_path, word: str) -> str:
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    command = [sys.executable, str(file), word]
    done = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_memory_is_given_back(tmp_path):
    assert "leaked" in said(tmp_path, "at once")  # what is looked for would be found
    assert "leaked" not in said(tmp_path, "wait")
