"""Every published config compiles for slices of TPUs; more than an hour here: `pytest -m published`."""

import pytest

from jax_itm import config as config_lib
from jax_itm.aot.programs import steps
from jax_itm.aot.report import compile_step
from jax_itm.config import Facts
from jax_itm.distributed.mesh import mesh_over
from jax_itm.distributed.topology import offline_devices
from jax_itm.platforms import CHIPS

pytest.importorskip("libtpu", reason="the TPU compiler is not installed: pip install -e .[aot]")
pytestmark = pytest.mark.published

PUBLISHED = ("dias_f30k", "dias_coco", "cdds_f30k", "cdds_coco", "iais_f30k", "iais_coco")
SLICES = {"v5e-32": "v5e:4x8", "v5p-16": "v5p:2x2x4"}
VARIANTS = (
    ("dias_f30k", "v5e-32", {"fsdp": True}),
    ("dias_f30k", "v5e-32", {"dtype": "bfloat16"}),
    ("cdds_f30k", "v5e-32", {"dtype": "bfloat16", "remat": True}),
    ("cdds_f30k", "v5p-16", {"fsdp": True}),
)


@pytest.mark.parametrize(
    ("name", "slice_", "changed"),
    [(name, slice_, {}) for name in PUBLISHED for slice_ in SLICES] + list(VARIANTS),
)
def test_the_training_step_compiles_and_fits(name, slice_, changed):
    topology = SLICES[slice_]
    config = config_lib.read(f"configs/{name}.py", [f"--config.{k}={v}" for k, v in changed.items()])
    mesh = mesh_over(offline_devices(topology))
    facts = Facts(region_dim=2048, vocab=10_000)
    training = next(steps(config, facts, mesh, epoch_examples=145_000))
    compiled = compile_step(training, mesh, CHIPS[topology.split(":")[0]])
    print(f"{name} on {slice_} {changed}: {compiled}")
    assert not compiled.excess
    assert compiled.collectives
