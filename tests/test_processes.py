"""Two real processes on loopback, four virtual devices each: the losses of one."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jax_itm import losses

SCRIPT = """
import sys
import jax, jax.numpy as jnp, numpy as np
port, me = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(me))
from jax_itm import losses
from jax_itm.parallel import make_mesh, shard_rows
from jax_itm.similarity import Plan

mesh = make_mesh()
assert mesh.size == 8
v, t = np.random.default_rng(0).normal(size=(2, 32, 8)).astype(np.float32)
mine = slice(16 * int(me), 16 * int(me) + 16)
with jax.set_mesh(mesh):
    given = shard_rows(mesh, (v[mine], t[mine], np.arange(32, dtype=np.int32)[mine]))
    for form in ("ring", "gather"):
        plan = Plan(form, 3)
        for loss in (
            lambda v, t, i: losses.info_nce(v, t, i, jnp.float32(2), plan),
            lambda v, t, i: losses.triplet_hardest(v, t, i, 0.2, plan),
        ):
            norm = lambda v, t, i: jnp.sum(jax.grad(loss)(v, t, i) ** 2)
            print("found", float(jax.jit(loss)(*given)), float(jax.jit(norm)(*given)), flush=True)
"""


def test_two_processes_compute_the_losses_of_one():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, port, str(me)],
            **{"env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True},
        )
        for me in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=240)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said
    v, t = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 8)), jnp.float32)
    ids, expected = jnp.arange(32), []
    for loss in (
        lambda v: losses.info_nce(v, t, ids, jnp.float32(2)),
        lambda v: losses.triplet_hardest(v, t, ids, 0.2),
    ):
        expected.append([float(loss(v)), float(jnp.sum(jax.grad(loss)(v) ** 2))])
    for text in said:
        lines = [line.split()[1:] for line in text.splitlines() if line.startswith("found")]
        found = [[float(word) for word in line] for line in lines]
        np.testing.assert_allclose(found, expected * 2, rtol=1e-5)
