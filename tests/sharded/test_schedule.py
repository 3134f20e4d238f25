"""Every tile schedule visits every pair once, in the order that the drawing shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jax_itm.losses import Plan
from jax_itm.sharded import schedule
from jax_itm.sharded.collectives import batch_axes, on_shards
from jax_itm.sharded.schedule import Accumulator, States, traverse
from jax_itm.sharded.tiles import Matrix, Side


def visits(devices, batch, plan, symmetric, additive=False):
    """How often, by weight, each row was paired with each column: as row and as column, both (b, b)."""
    mesh = jax.make_mesh((devices,), ("dp",), (AxisType.Auto,), devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        matrix = Matrix(batch, batch_axes("dp"), plan)

        def update(rows, columns, states, weight):
            one = lambda ids: weight * jax.nn.one_hot(ids, batch)
            row = states.rows + one(columns.id).sum(0) * (rows.id >= 0)[:, None]
            column = states.columns + one(rows.id).sum(0) * (columns.id >= 0)[:, None]
            return States(row, column, states.carry + 1)

        def shards(side, _):
            block = matrix.block(side)
            empty = lambda block: jnp.zeros((len(block.id), batch))
            accumulator = Accumulator(empty, update, jnp.add, additive)
            states = traverse(matrix, accumulator, block, block, jnp.zeros((), int), symmetric)
            return matrix.unpad((states.rows, states.columns)), states.carry

        side = Side((jnp.zeros((batch, 2)),), jnp.arange(batch))
        run = jax.jit(lambda side: on_shards(matrix.axes, shards, side, ()))
        return jax.device_get(run(side))


CASES = [(1, 7, 3), (2, 8, 3), (3, 9, 2), (4, 8, 1), (5, 5, 4), (8, 8, 4)]  # devices, batch, largest tile


@pytest.mark.parametrize("schedule", ["ring", "gather"])
@pytest.mark.parametrize(("devices", "batch", "tile"), CASES)
def test_every_pair_is_visited_once(devices, batch, tile, schedule):
    (rows, columns), _ = visits(devices, batch, Plan(schedule, tile), False)
    np.testing.assert_array_equal(rows, np.ones((batch, batch)))
    np.testing.assert_array_equal(columns, np.ones((batch, batch)))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("devices", "batch", "tile"), CASES)
def test_as_on_accelerators_every_pair_is_visited_once(monkeypatch, devices, batch, tile, symmetric):
    """There the states of columns follow a step behind, and are merged with what was made meanwhile."""
    monkeypatch.setattr(schedule, "is_cpu", lambda: False)
    (rows, columns), _ = visits(devices, batch, Plan("ring", tile), symmetric)
    together = [rows + columns] if symmetric else [rows, columns]
    for visited in together:
        np.testing.assert_array_equal(visited, np.ones((batch, batch)))


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize(
    ("devices", "group", "tile"), [(4, 2, 3), (6, 3, 1), (6, 2, 4), (8, 4, 2), (6, 6, 2)]
)
def test_in_groups_every_pair_is_visited_once(monkeypatch, devices, group, tile, additive):
    monkeypatch.setattr(Matrix, "group", lambda *_: group)
    batch = 3 * devices
    (rows, columns), _ = visits(devices, batch, Plan("auto", tile), False, additive)
    np.testing.assert_array_equal(rows, np.ones((batch, batch)))
    np.testing.assert_array_equal(columns, np.ones((batch, batch)))


@pytest.mark.parametrize("schedule", ["ring", "gather"])
@pytest.mark.parametrize(("devices", "batch", "tile"), CASES)
def test_in_the_symmetric_ring_both_roles_together_visit_every_pair_once(devices, batch, tile, schedule):
    (rows, columns), tiles = visits(devices, batch, Plan(schedule, tile), True)
    np.testing.assert_array_equal(rows + columns, np.ones((batch, batch)))
    if schedule == "ring":
        along = devices * -(-(batch // devices) // tile)
        assert tiles <= along * (along + devices) // 2  # half of all, and the mirror images on the diagonal


def test_three_devices_go_along_the_diagonals():
    """The drawing: which columns each device has at every step."""
    mesh = jax.make_mesh((3,), ("dp",), (AxisType.Auto,), devices=jax.devices()[:3])
    with jax.set_mesh(mesh):
        axes = batch_axes("dp")

        def shards(columns, _):
            order = []
            for _ in range(3):
                order.append(columns)
                columns = axes.shift(columns)
            return jnp.stack(order, axis=1), ()

        order, _ = jax.jit(lambda x: on_shards(axes, shards, x, ()))(jnp.arange(3))
    np.testing.assert_array_equal(order, [[0, 2, 1], [1, 0, 2], [2, 1, 0]])
