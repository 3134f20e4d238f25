"""The gradient of selected scores against `segment_sum`, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jax_itm.losses import Plan
from jax_itm.sharded.collectives import batch_axes
from jax_itm.sharded.scatter import Selection, scatter_selected
from jax_itm.sharded.tiles import Matrix


def reference(y, mine, theirs):
    """One device, plain JAX: edges (target row of x, source row of y, weight), added up by target."""
    rows, k = mine.of.shape
    own = jnp.repeat(jnp.arange(rows), k)
    target = jnp.concatenate([own, theirs.of.ravel()])
    source = jnp.concatenate([mine.of.ravel(), own])
    weight = jnp.concatenate([mine.cotangent.ravel(), theirs.cotangent.ravel()])
    real = (target >= 0) & (source >= 0)
    added = jnp.where(real, weight, 0)[:, None] * y[jnp.where(real, source, 0)]
    return jax.ops.segment_sum(added, jnp.where(real, target, 0), rows)


def selections(rows, k, seed):
    """Random ones, with repeats and with rows that selected nothing (-1)."""
    rng = np.random.default_rng(seed)
    one = lambda: Selection(
        jnp.asarray(rng.integers(-1, rows, (rows, k)), jnp.int32), jnp.asarray(rng.normal(size=(rows, k)))
    )
    return jnp.asarray(rng.normal(size=(rows, 5))), one(), one()


@pytest.mark.parametrize("schedule", ["ring", "gather"])
@pytest.mark.parametrize(
    ("devices", "rows", "k"), [(1, 7, 1), (1, 300, 2), (2, 8, 3), (3, 9, 1), (8, 640, 2)], ids=str
)
@pytest.mark.parametrize("cpu", [True, False])  # accelerators multiply by matrices of 0 and 1
def test_scatter_is_segment_sum(devices, rows, k, schedule, cpu, monkeypatch):
    monkeypatch.setattr("jax_itm.sharded.scatter.is_cpu", lambda: cpu)
    with jax.enable_x64(True):
        y, mine, theirs = selections(rows, k, devices)
        mesh = jax.make_mesh((devices,), ("dp",), (AxisType.Auto,), devices=jax.devices()[:devices])
        with jax.set_mesh(mesh):
            matrix = Matrix(rows, batch_axes("dp"), Plan(schedule))
            dx = jax.jit(lambda *inputs: scatter_selected(matrix, *inputs))(y, mine, theirs)
        np.testing.assert_allclose(dx, reference(y, mine, theirs), rtol=1e-12, atol=1e-12)


def test_the_example_of_the_docstring():
    y = jnp.eye(3)
    mine = Selection(jnp.array([[2], [-1], [-1]]), jnp.array([[10.0], [0.0], [0.0]]))
    theirs = Selection(jnp.array([[-1], [0], [-1]]), jnp.array([[0.0], [7.0], [0.0]]))
    dx = scatter_selected(Matrix(3), y, mine, theirs)
    np.testing.assert_array_equal(dx, [[0, 7, 10], [0, 0, 0], [0, 0, 0]])
