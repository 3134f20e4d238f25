"""The estimate of a training step's memory, and the line that warns of a step that will not fit."""

from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax
import pytest

from jax_itm.checkpoint.state import abstract_state
from jax_itm.distributed.mesh import make_mesh
from jax_itm.methods.base import Aux
from jax_itm.train import memory

WIDTH, LAYERS = 64, 5


class Tanhs:
    """A method of layers whose outputs the backward pass needs; with `remat` only those of whole layers."""

    label = score_name = "none"
    block_images = 1
    reasons = MappingProxyType({})

    def __init__(self, remat=False):
        self.layer = jax.checkpoint(self.two) if remat else self.two

    @staticmethod
    def two(x, weights):
        return jnp.tanh(jnp.tanh(x @ weights[0]) @ weights[1])

    def loss(self, params, batch, rng, step):
        x = batch["x"]
        for weights in params["layers"]:
            x = self.layer(x, weights)
        return jnp.mean(x) + step, Aux({}, {})

    def unused(self, *args):
        raise NotImplementedError

    init = project = encode_image = encode_text = score = unused


def needed(rows=256, devices=1, remat=False):
    mesh = make_mesh(devices)
    shapes = {"layers": [jax.ShapeDtypeStruct((2, WIDTH, WIDTH), jnp.float32)] * LAYERS}
    state = abstract_state(shapes, optax.adam(1.0), False, mesh)
    batch = {"x": jax.ShapeDtypeStruct((rows, WIDTH), jnp.float32)}
    with jax.set_mesh(mesh):
        return memory.need(Tanhs(remat), state, batch, mesh), (Tanhs(remat), state, batch, mesh)


def test_state_is_counted_with_its_gradients():
    parameters = LAYERS * 2 * WIDTH * WIDTH * 4
    assert needed()[0].state == pytest.approx(4 * parameters, abs=16)  # two moments; a step and a count


def test_activations_follow_the_rows_of_a_device():
    one = needed()[0].activations
    output = 256 * WIDTH * 4
    assert 2 * LAYERS * output <= one <= 5 * LAYERS * output
    fixed = 2 * one - needed(rows=512)[0].activations  # weights that are kept in another shape
    assert needed(rows=512, devices=2)[0].activations == one - fixed // 2
    assert needed(remat=True)[0].activations < 0.7 * one


def test_a_step_that_will_not_fit_is_announced(monkeypatch):
    need, arguments = needed()
    assert memory.shortage(*arguments) == ""  # CPUs have what they have
    monkeypatch.setattr(memory, "is_cpu", lambda: False)
    for spare, words in ((1, ""), (-1, "config.remat=True")):
        monkeypatch.setattr(memory, "device_memory", lambda spare=spare: sum(need) + spare)
        with jax.set_mesh(arguments[-1]):
            line = memory.shortage(*arguments)
        assert words in line and bool(line) == bool(words)
