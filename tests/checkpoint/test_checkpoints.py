"""Checkpoints that are damaged, and disks that are full."""

import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jax_itm.checkpoint import checksums
from jax_itm.checkpoint.checkpoints import Checkpoints, Description
from jax_itm.checkpoint.state import State
from jax_itm.config import Facts
from jax_itm.config.load import default, to_json
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError

CONFIG = default("info_nce")
TOKENIZER = Tokenizer.fit(["a dog", "a log"])
RUN = Description(CONFIG, Facts(3, 9, text_architecture=ConfigDict({"kind": "bert"}).lock()), TOKENIZER)


def states() -> list[State]:
    """Two small states, of steps 1 and 2."""
    params = {"w": jnp.arange(20_000, dtype=jnp.float32)}
    return [State(jnp.int32(k), jax.tree.map(lambda x, k=k: x + k, params), params, None) for k in (1, 2)]


def save(folder: Path, *states: State) -> Path:
    """Writes the states; returns the folder of the checkpoints."""
    checkpoints = Checkpoints(str(folder), create=True)
    for state in states:
        checkpoints.save(state, RUN, None)
    checkpoints.close()
    return folder / "checkpoints"


def largest(folder: Path) -> Path:
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def test_config_and_tokenizer_are_restored(tmp_path):
    save(tmp_path, *states())
    description = Checkpoints(str(tmp_path)).read_description(2)
    assert to_json(description.config) == to_json(CONFIG)
    assert description.facts == RUN.facts
    assert description.tokenizer.to_json() == TOKENIZER.to_json()


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "lost"])
def test_if_the_newest_is_damaged_the_one_before_is_resumed(tmp_path, damage):
    folder = save(tmp_path, *states())
    file = largest(folder / "2" / "params")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(data if damage == "a flipped bit" else data[:-1])
    checkpoints = Checkpoints(str(tmp_path))
    step, warning = checkpoints.newest_intact()
    assert step == 1 and str(file) in warning
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore_state(1, states()[0]), states()[0])
    with pytest.raises(UserError, match=file.name):
        checkpoints.restore_params(2, states()[0].params, averaged=False)
    resumed = Checkpoints(str(tmp_path), create=True)
    resumed.delete_after(step)
    resumed.save(states()[1], RUN, None)
    resumed.close()
    assert Checkpoints(str(tmp_path)).newest_intact() == (2, "")


def test_a_checkpoint_without_readable_checksums_is_damaged(tmp_path):
    folder = save(tmp_path, *states())
    table = folder / "2" / checksums.FILE
    table.write_text("[1")
    assert Checkpoints(str(tmp_path)).newest_intact() == (1, f"{table} is damaged")
    table.unlink()
    assert Checkpoints(str(tmp_path)).newest_intact() == (1, f"{table} is missing")
    with pytest.raises(UserError, match=r"2/checksums.json is missing"):
        Checkpoints(str(tmp_path)).read_description(2)


def test_if_all_are_damaged_one_line_says_so(tmp_path):
    folder = save(tmp_path, *states())
    for step in ("1", "2"):
        largest(folder / step / "params").unlink()
    with pytest.raises(UserError, match=r"checkpoints are damaged: .*/2/.* is missing; .*/1/.* is missing"):
        Checkpoints(str(tmp_path)).newest_intact()


def test_a_disk_that_fills_up_keeps_the_checkpoint_before(tmp_path):
    """No file may grow beyond 8 KiB: for whoever writes it, that is a full disk or a quota."""
    first, second = states()
    checkpoints = Checkpoints(str(tmp_path), create=True)
    checkpoints.save(first, RUN, None)
    checkpoints.manager.wait_until_finished()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        with pytest.raises(UserError, match="checkpoint 2 could not be written, checkpoint 1 is kept"):
            checkpoints.save(second, RUN, None)
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Checkpoints(str(tmp_path)).newest_intact() == (1, "")
    folder = save(tmp_path, second)  # when there is room again
    assert Checkpoints(str(tmp_path)).newest_intact() == (2, "")
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
