"""Devices are numbered as a PartitionSpec lays out the rows, in every collective and for any axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jax_itm.sharded.collectives import ONE_DEVICE, batch_axes, on_shards, over_rows, per_row

AXES = ["data", ("data",), ("replica", "data"), ("data", "replica"), ("model", "replica", "data")]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("axis", AXES, ids=str)
def test_the_order_of_devices_is_that_of_the_rows(axis, kind):
    with jax.set_mesh(jax.make_mesh((2, 2, 2), ("replica", "data", "model"), (kind,) * 3)):
        axes = batch_axes(axis)
        n = axes.devices

        def shards(x, _):
            everything = axes.gather(x, n)
            from_all = axes.exchange(n * axes.index() + jnp.arange(n), n)
            return (x[:, None] // (8 // n), axes.shift(x), axes.shift(x, -1), from_all[None]), everything

        rows = jax.jit(lambda x: on_shards(axes, shards, x, ()))
        (index, later, earlier, from_all), everything = jax.device_get(rows(jnp.arange(8)))
    shard = 8 // n
    np.testing.assert_array_equal(index[:, 0], np.repeat(np.arange(n), shard))
    np.testing.assert_array_equal(later, np.roll(np.arange(8), shard))
    np.testing.assert_array_equal(earlier, np.roll(np.arange(8), -shard))
    np.testing.assert_array_equal(from_all[:, :, 0], np.arange(n)[None] * n + np.arange(n)[:, None])
    np.testing.assert_array_equal(everything, n * np.arange(8))  # summed over the devices


@pytest.mark.parametrize("axis", ["data", ("replica", "data"), ("data", "replica")], ids=str)
@pytest.mark.parametrize("group", [1, 2])
def test_a_group_is_of_devices_that_follow_one_another(axis, group):
    with jax.set_mesh(jax.make_mesh((2, 4), ("replica", "data"), (AxisType.Auto,) * 2)):
        axes = batch_axes(axis)
        n = axes.devices

        def shards(x, _):
            columns = axes.gather(x, group)
            part = 100 * axes.index() + columns  # what this device has of every column of its group
            if group == 1:
                return (columns, part[None], part), ()
            return (columns, axes.exchange(part, group)[None], axes.sum_scatter(part, group)), ()

        x = jnp.arange(2 * n)  # two rows a device
        columns, exchanged, summed = jax.device_get(jax.jit(lambda x: on_shards(axes, shards, x, ())[0])(x))
    for device in range(n):
        first = device // group * group
        members = np.arange(first, first + group)
        own = np.arange(2 * device, 2 * device + 2)
        np.testing.assert_array_equal(
            columns.reshape(n, -1)[device], np.arange(2 * first, 2 * first + 2 * group)
        )
        parts = 100 * members[:, None] + own
        np.testing.assert_array_equal(exchanged.reshape(n, group, 2)[device], parts)
        np.testing.assert_array_equal(summed.reshape(n, 2)[device], parts.sum(axis=0))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_sums_and_rows_have_the_gradient_of_one_device(kind):
    x = jnp.arange(16.0).reshape(8, 2)
    weights = jnp.array([1.0, 2.0])

    def loss(axes, x, weights):
        mean = over_rows(axes, lambda x: axes.sum(jnp.sum(x**2, axis=0)), x)
        each = per_row(axes, lambda x, w: jnp.sort(x * w, axis=1), x, replicated=(weights,))
        return jnp.vdot(mean, weights) + jnp.sum(each[:, 0] ** 2)

    gradients = lambda axes: jax.jit(jax.grad(lambda x, w: loss(axes, x, w), argnums=(0, 1)))(x, weights)
    alone = jax.device_get(gradients(ONE_DEVICE))
    with jax.set_mesh(jax.make_mesh((4, 2), ("dp", "model"), (kind,) * 2)):
        spread = jax.device_get(gradients(batch_axes("dp")))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), alone, spread)


def test_an_empty_tuple_of_axes_is_one_device():
    with jax.set_mesh(jax.make_mesh((8,), ("model",), (AxisType.Auto,))):
        assert batch_axes(()) == ONE_DEVICE
