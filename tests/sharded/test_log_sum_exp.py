"""The log-sum-exp over negatives where its own gradient divides by the scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jax_itm.losses import Plan
from jax_itm.losses.inputs import pairs
from jax_itm.sharded.log_sum_exp import log_sum_exp
from jax_itm.sharded.tiles import Matrix

IDS = jnp.asarray([0, 0, 1, 2, 3, 4, 5, 6])


def plain(v, t, scale):
    z = jnp.where(IDS[:, None] != IDS[None, :], scale * jnp.matmul(v, t.T, precision="highest"), -jnp.inf)
    return jax.nn.logsumexp(z, axis=1), jax.nn.logsumexp(z, axis=0)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("scale", [0.0, -2.0, 5.0])
@pytest.mark.parametrize("kept", [False, True])
def test_gradients_are_those_of_plain_jax_at_any_scale(kept, scale, kind, monkeypatch):
    monkeypatch.setattr(Matrix, "keeps_scores", kept)  # where scores are kept, tiles divide the rows
    v, t = jax.random.normal(jax.random.key(0), (2, 8, 4))
    weights = jax.random.normal(jax.random.key(1), (2, 8))

    def ours(v, t, scale):
        batch = pairs(v, t, IDS, "dp")
        arrays = batch.images, batch.texts, batch.image_ids
        row, column = log_sum_exp(batch.matrix(Plan("ring", 2 if kept else 3)), *arrays, scale)
        return jnp.vdot(row, weights[0]) + jnp.vdot(column, weights[1])

    reference = lambda *x: sum(jnp.vdot(a, b) for a, b in zip(plain(*x), weights, strict=True))
    at = v, t, jnp.float32(scale)
    expected = jax.value_and_grad(reference, (0, 1, 2))(*at)
    with jax.set_mesh(jax.make_mesh((2,), ("dp",), (kind,), devices=jax.devices()[:2])):
        actual = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(*at)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, expected)
