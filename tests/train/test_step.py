"""One update: what the optimizer may change, what the loss estimates, and what all processes learn of it."""

from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jax_itm.checkpoint.state import abstract_state, init_state
from jax_itm.distributed.mesh import make_mesh, per_device, shard_local_batch
from jax_itm.methods.base import Aux
from jax_itm.train.step import first_nonfinite_row, train_step

BATCH = {
    "image": {"regions": jnp.arange(16.0).reshape(8, 2)},
    "text": {"ids": jnp.ones((8, 2), jnp.int32)},
    "image_id": jnp.arange(8),
}


class Regression:
    """A method whose loss also estimates the mean input, counts its batches, and limits its scale to 3."""

    label = "regression"
    score_name = "none"
    block_images = 1
    reasons = MappingProxyType({})

    def loss(self, params, batch, rng, step):
        x = batch["image"]["regions"]
        value = jnp.mean((x @ params["weight"] - 1) ** 2) - params["scale"]
        stats = {"mean": jnp.mean(x, axis=0), "count": params["stats"]["count"] + 1}
        return value, Aux({"error": value}, stats)

    def project(self, params):
        return {**params, "scale": jnp.minimum(params["scale"], 3.0)}

    def unused(self, *args):
        raise NotImplementedError

    init = encode_image = encode_text = score = unused


def params():
    stats = {"mean": jnp.zeros(2), "count": jnp.int32(0)}
    return {"weight": jnp.array([0.5, -0.5]), "scale": jnp.float32(1.0), "stats": stats}


def updated(devices: int = 8, steps: int = 1, batch=BATCH, optimizer=None):
    mesh = make_mesh(devices)
    optimizer = optimizer or optax.adamw(1.0, weight_decay=0.5)
    with jax.set_mesh(mesh):
        state = init_state(params(), optimizer, True, mesh)
        update = train_step(Regression(), optimizer, mesh, 0, 0.75, state)
        for _ in range(steps):
            outputs = update(state, shard_local_batch(mesh, batch), per_device(mesh, 15))
            state = outputs[0]
    return jax.device_get(outputs)


def test_estimates_are_replaced_and_no_optimizer_touches_them():
    state, terms, _ = updated(steps=2)
    np.testing.assert_allclose(state.params["stats"]["mean"], [7, 8])
    assert state.params["stats"]["count"] == 2 and state.params["stats"]["count"].dtype == np.int32
    moments = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
    assert moments == {(), (2,)} and len(jax.tree.leaves(state.opt_state)) == 5  # a count, two of two
    gradient = jax.grad(lambda p: Regression().loss({**params(), **p}, BATCH, None, 0)[0])
    _, first, _ = updated(steps=1)
    trained = {name: params()[name] for name in ("weight", "scale")}
    np.testing.assert_allclose(first["grad_norm"], optax.tree.norm(gradient(trained)), rtol=1e-6)
    assert set(terms) == {"error", "loss", "grad_norm"}


def test_averages_are_of_parameters_and_copy_the_estimates():
    state, _, _ = updated(steps=1)
    for name in ("weight", "scale"):
        np.testing.assert_allclose(
            state.ema[name], 0.75 * params()[name] + 0.25 * state.params[name], rtol=1e-6
        )
    jax.tree.map(np.testing.assert_array_equal, state.ema["stats"], state.params["stats"])


def test_limits_hold_after_the_update_and_not_in_the_loss():
    """CLIP's clipping: a parameter at its limit keeps its gradient, so that it can come back."""
    climbing = optax.sgd(1.0)  # the scale has gradient -1
    assert [updated(steps=k, optimizer=climbing)[0].params["scale"] for k in (1, 2, 3)] == [2, 3, 3]


def test_updates_are_equal_on_one_and_eight_devices():
    one, eight = updated(1, 3), updated(8, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, eight)


def test_every_process_learns_the_largest_signal_and_the_first_nonfinite_row():
    _, _, status = updated()
    assert (status.stop_signal, status.first_nonfinite_row) == (15, -1)
    regions = BATCH["image"]["regions"].at[5, 1].set(jnp.nan).at[6].set(jnp.inf)
    _, _, status = updated(batch=BATCH | {"image": {"regions": regions}})
    assert status.first_nonfinite_row == 5
    mesh = make_mesh(8)
    signal = jnp.zeros(8, jnp.int32).at[3].set(2)  # as if device 3 were of another process
    optimizer = optax.sgd(0.1)
    with jax.set_mesh(mesh):
        update = train_step(Regression(), optimizer, mesh, 0, 0.0)
        state = init_state(params(), optimizer, False, mesh)
        assert update(state, shard_local_batch(mesh, BATCH), signal)[2].stop_signal == 2


def test_the_signal_is_split_over_the_devices():
    signal = per_device(make_mesh(8), 2)
    assert signal.shape == (8,) and signal.sharding.spec == PartitionSpec("data")


def test_a_nonfinite_text_counts_and_an_integer_never_does():
    batch = BATCH | {"text": {"features": jnp.ones((8, 2, 3)).at[2, 1, 0].set(-jnp.inf)}}
    assert first_nonfinite_row(batch) == 2
    assert first_nonfinite_row(BATCH) == -1


@pytest.mark.parametrize("fsdp", [False, True])
def test_the_abstract_state_is_that_of_the_first_step(fsdp):
    mesh = make_mesh(8)
    optimizer = optax.adamw(1e-3)
    large = params() | {"large": jnp.ones((64, 128))}
    state = init_state(large, optimizer, True, mesh, fsdp)
    shapes = abstract_state(jax.eval_shape(lambda: large), optimizer, True, mesh, fsdp)
    same = lambda a, b: (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)
    assert jax.tree.all(jax.tree.map(same, state, shapes))
    assert state.params["large"].sharding.is_fully_replicated != fsdp
