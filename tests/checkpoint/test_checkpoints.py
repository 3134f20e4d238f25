"""Checkpoints that are damaged, and disks that are full."""

import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm.checkpoint.checkpoints import Checkpoints
from jax_itm.checkpoint.state import State
from jax_itm.errors import UserError


def states():
    """Two small states, of steps 1 and 2."""
    params = {"w": jnp.arange(20_000, dtype=jnp.float32)}
    return [State(jnp.int32(k), jax.tree.map(lambda x, k=k: x + k, params), params, None) for k in (1, 2)]


def saved(folder) -> Path:
    """A directory with both."""
    saving = Checkpoints(str(folder), create=True)
    for state in states():
        saving.save(state, {}, {}, None)
    saving.close()
    return folder / "checkpoints"


def largest(folder: Path) -> Path:
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


@pytest.mark.parametrize("damage", ["a turned bit", "cut short", "lost"])
def test_of_a_damaged_checkpoint_and_an_older_one_the_older_is_taken(tmp_path, damage):
    folder = saved(tmp_path)
    file = largest(folder / "2" / "params")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(data if damage == "a turned bit" else data[:-1])
    found = Checkpoints(str(tmp_path))
    at, line = found.newest_whole()
    assert at == 1 and str(file) in line and line.endswith("going on from step 1")
    jax.tree.map(np.testing.assert_array_equal, found.state(1, states()[0]), states()[0])
    with pytest.raises(UserError, match=file.name):
        found.params(2, states()[0].params, averaged=False)
    going_on = Checkpoints(str(tmp_path), create=True)
    going_on.drop_after(at)
    going_on.save(states()[1], {}, {}, None)
    going_on.close()
    assert Checkpoints(str(tmp_path)).newest_whole() == (2, "")


def test_no_whole_checkpoint_is_one_line(tmp_path):
    folder = saved(tmp_path)
    for step in ("1", "2"):
        largest(folder / step / "params").unlink()
    with pytest.raises(UserError, match=r"no checkpoint is whole: .*/2/.* is missing; .*/1/.* is missing"):
        Checkpoints(str(tmp_path)).newest_whole()


def test_a_disk_that_fills_up_keeps_the_checkpoint_before(tmp_path):
    """No file may grow beyond 8 KiB: to who writes it, that is a full disk or a quota."""
    first, second = states()
    saving = Checkpoints(str(tmp_path), create=True)
    saving.save(first, {}, {}, None)
    saving.manager.wait_until_finished()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        with pytest.raises(UserError, match="checkpoint 2 could not be written, checkpoint 1 is kept"):
            saving.save(second, {}, {}, None)
            saving.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Checkpoints(str(tmp_path)).newest_whole() == (1, "")
    again = Checkpoints(str(tmp_path), create=True)  # when there is room again
    again.save(second, {}, {}, None)
    again.close()
    assert Checkpoints(str(tmp_path)).newest_whole() == (2, "")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]
