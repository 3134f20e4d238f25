"""Over several CPU devices JAX caches no programs: those from its cache lose the order of collectives."""

import os
import subprocess
import sys

from tests.helpers.paths import ROOT

SCRIPT = """
import sys
import jax
from jax_itm.distributed.mesh import make_mesh

devices = int(sys.argv[1])
jax.jit(lambda x: x + 1)(1)  # JAX has looked at its options
make_mesh(devices)
jax.jit(lambda x: x * 2)(1)
"""


def cached(folder, devices: int) -> int:
    """How many programs a process with a mesh keeps."""
    options = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-c", SCRIPT, str(devices)]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | options)
    return len(list(folder.glob("*-cache")))


def test_only_a_mesh_of_one_cpu_device_caches_programs(tmp_path):
    assert cached(tmp_path / "one", 1) == 1 + cached(tmp_path / "two", 2)
