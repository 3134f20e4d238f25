"""What the compiler for CUDA makes of losses and runs, without a GPU; skipped without the compiler."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jax_itm import config as config_lib
from jax_itm import losses
from jax_itm.aot import hlo
from jax_itm.aot.report import report
from jax_itm.config import Facts
from jax_itm.distributed.mesh import mesh_over
from jax_itm.distributed.topology import offline_devices
from jax_itm.platforms import CHIPS

pytest.importorskip(
    "jax_plugins.xla_cuda13", reason="the CUDA compiler is not installed: pip install -e .[aot_cuda]"
)


@pytest.fixture(scope="module")
def mesh():
    return mesh_over(offline_devices("h100:8"))


@pytest.mark.parametrize("schedule", ["ring", "gather"])
@pytest.mark.parametrize(("dtype", "expected"), [("float32", "highest"), ("tf32", "high")])
def test_info_nce_on_eight_gpus(mesh, schedule, dtype, expected):
    rows = NamedSharding(mesh, PartitionSpec("data"))
    shape = jax.ShapeDtypeStruct((8192, 256), jnp.float32, sharding=rows)
    loss = lambda v, t: losses.info_nce(v, t, scale=20.0, plan=losses.Plan(schedule, 512, dtype))
    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(shape, shape).compile()
    text = compiled.as_text()
    assert set(re.findall(r"operand_precision=\{(\w+),", text)) == {expected}
    kinds = {row.kind: row for row in hlo.collectives(hlo.parse(text), [])}
    assert ("collective-permute" in kinds) == (schedule == "ring")
    # A device's strip of the matrix would be 32 MiB.
    assert compiled.memory_analysis().temp_size_in_bytes < 24 * 2**20


def test_the_report_has_no_times(mesh):
    config = config_lib.read("configs/contrastive_f8k.py", [])
    lines = list(report(config, Facts(region_dim=512, vocab=100), mesh, CHIPS["h100"], 1000))
    assert lines[0].startswith("8 chips of 79.0 GiB")
    assert "estimates no times" in lines[1]
    training = next(line for line in lines if line.startswith("| training step"))
    assert training.count("| - ") == 4
    assert any(line.startswith("| all-reduce") for line in lines)
