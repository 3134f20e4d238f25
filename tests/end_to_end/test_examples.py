"""The scripts of docs/examples learn, and print the same losses on eight devices as on one."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.helpers.paths import ROOT

EXAMPLES = ["own_linen_loop", "own_nnx_loop", "own_equinox_loop"]


def losses_of(name, devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, f"docs/examples/{name}.py"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    return [float(value) for value in re.findall(r"step \d+: loss (\S+)", run.stdout)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_learns_and_devices_change_nothing(name):
    with ThreadPoolExecutor() as pool:
        spread, alone = pool.map(losses_of, [name] * 2, [8, 1])
    assert len(alone) == 4
    assert alone == sorted(alone, reverse=True)  # the loss falls
    assert alone[-1] < alone[0] - 0.3 * abs(alone[0])
    np.testing.assert_allclose(spread, alone, rtol=1e-3, atol=1e-3)
