"""What the TPU compiler makes of the losses, on a machine without a TPU; skipped without the compiler."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jax_itm import losses
from jax_itm.aot import hlo
from jax_itm.distributed.mesh import mesh_over
from jax_itm.distributed.topology import offline_devices
from jax_itm.models import Gpo
from jax_itm.sharded import tiles

pytest.importorskip("libtpu", reason="the TPU compiler is not installed: pip install -e .[aot]")

ROWS, DIM = 4096, 256  # of the global batch
LOSSES = {
    "info_nce": lambda v, t, plan: losses.info_nce(v, t, scale=20.0, plan=plan),
    "sigmoid": lambda v, t, plan: losses.sigmoid(v, t, scale=10.0, bias=-10.0, plan=plan),
    "hardest": lambda v, t, plan: losses.triplet(v, t, negatives="hardest", plan=plan),
    "dias": lambda v, t, plan: losses.dias(v, t, negatives="hardest", plan=plan),
}


@pytest.fixture(scope="module")
def mesh():
    return mesh_over(offline_devices("v5e:2x2"))


def compiled(mesh, fn, *shapes):
    """Value and gradients of `fn`, whose arguments are split over the mesh."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows) for shape in shapes]
    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(fn, tuple(range(len(shapes)))))
        return step.lower(*arguments).compile()


def precisions(text):
    """What the products of a program say of their precision."""
    products = re.findall(r" (?:convolution|dot)\(.*", text)
    return {(re.search(r"operand_precision=\{(\w+),", line) or [0, "default"])[1] for line in products}


def sizes(text, *opcodes):
    """Elements of the results of operations."""
    program = hlo.parse(text)
    return [i.elements for body in program.computations.values() for i in body if i.opcode in opcodes]


@pytest.mark.parametrize("schedule", ["ring", "gather"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_on_four_chips(mesh, name, schedule):
    plan = losses.Plan(schedule=schedule, tile=256)
    program = compiled(mesh, lambda v, t: LOSSES[name](v, t, plan), (ROWS, DIM), (ROWS, DIM))
    text = program.as_text()
    assert precisions(text) == {"highest"}
    kinds = {row.kind for row in hlo.collectives(hlo.parse(text), [])}
    assert ("collective-permute" in kinds) == (schedule == "ring")
    if schedule == "ring":
        assert not kinds & {"all-gather", "all-to-all", "reduce-scatter"}
    # A chip's share of the matrix would be 16 MiB.
    parts = 3 if name == "dias" else 1  # the terms one after the other
    assert program.memory_analysis().temp_size_in_bytes < parts * {"ring": 4, "gather": 12}[schedule] * 2**20
    assert not sizes(text, "scatter")
    assert max(sizes(text, "gather"), default=0) < ROWS // 4 * DIM


@pytest.mark.parametrize("slice_", ["v5e:4x4", "v6e:4x4"])
def test_columns_of_groups_of_chips(slice_, monkeypatch):
    """On these the compiler has collectives for parts that are rectangles, and ends with others."""
    columns = (ROWS // 16 * DIM * 4) * 4
    monkeypatch.setattr(tiles, "GATHER_BYTES", 0)
    monkeypatch.setattr(tiles, "device_memory", lambda: columns / tiles.GATHER_SHARE)
    loss = lambda v, t: losses.info_nce(v, t, scale=20.0)
    text = compiled(mesh_over(offline_devices(slice_)), loss, (ROWS, DIM), (ROWS, DIM)).as_text()
    kinds = {row.kind for row in hlo.collectives(hlo.parse(text), [])}
    assert {"collective-permute", "all-gather"} <= kinds


def test_kept_scores_save_a_product(mesh, monkeypatch):
    loss = lambda v, t: losses.info_nce(v, t, scale=20.0)
    cycles = []
    for share in (tiles.KEEP_SHARE, 0):
        monkeypatch.setattr(tiles, "KEEP_SHARE", share)
        program = compiled(mesh, lambda v, t: loss(v, t), (4 * ROWS, DIM), (4 * ROWS, DIM))
        cycles.append(hlo.cycles_by(hlo.parse(program.as_text()), {})["other"])
    assert cycles[0] < 0.9 * cycles[1]  # three products of four, and the reading of what was kept


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", "highest"), ("tf32", "high"), ("bfloat16", "default")]
)
def test_products_have_the_precision_that_was_asked_for(mesh, dtype, expected):
    plan = losses.Plan(schedule="ring", tile=256, dtype=dtype)
    fn = lambda v, t: losses.info_nce(v, t, scale=20.0, plan=plan)
    text = compiled(mesh, fn, (ROWS, DIM), (ROWS, DIM)).as_text()
    assert precisions(text) == {expected}


def test_gpo_gathers_nothing(mesh):
    shape = (64, 12, 256)
    mask = jnp.ones(shape[:2], bool)
    gpo = Gpo()
    shapes = jax.eval_shape(lambda: gpo.init(jax.random.key(0), jnp.zeros(shape), mask))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), shapes)
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh):
        pooled = lambda params, x: jnp.sum(gpo.apply(params, x, jnp.ones(shape[:2], bool)))
        text = jax.jit(jax.value_and_grad(pooled, (0, 1))).lower(params, x).compile().as_text()
    assert sizes(text, "sort")  # what is looked for would be found
    assert max(sizes(text, "gather", "scatter"), default=0) < 64 * 256


def test_distribution_sampling_compiles(mesh):
    """With sorts in place of its gathers, libtpu 0.0.42 crashes (a cycle in its algebraic simplifier)."""
    shape = (32, 6, 128)
    mask = jnp.ones(shape[:2], bool)
    fn = lambda v, t: losses.distribution_sampling(v, mask, t, mask, thresholds=jnp.ones(2))
    assert precisions(compiled(mesh, fn, shape, shape).as_text()) == {"highest"}
