"""UNITER in other shapes and precisions than the published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm.models.uniter import Uniter


def batch(dtype):
    rng = np.random.default_rng(0)
    text = {"ids": jnp.asarray(rng.integers(4, 10, (2, 5)), jnp.int32), "mask": jnp.ones((2, 5), bool)}
    image = {"regions": jnp.asarray(rng.normal(size=(2, 3, 6)), dtype), "mask": jnp.ones((2, 3), bool)}
    return {"text": text, "image": image | {"boxes": jnp.zeros((2, 3, 4), dtype)}}


def uniter(**options):
    return Uniter(**{"vocab": 10, "hidden": 24, "layers": 2, "heads": 3, "mlm": True} | options)


def test_scores_in_float64_are_those_of_float32_and_finer():
    with jax.enable_x64(True):
        params = uniter().init(jax.random.key(0), batch("float32"))
        wanted = uniter().apply(params, batch("float32"))
        double = jax.tree.map(lambda x: x.astype(jnp.float64), params)
        module = uniter(dtype=jnp.dtype("float64"))
        scores = module.apply(double, batch("float64"))
        assert scores.dtype == jnp.float64
        np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-6)
        text = batch("float64")["text"]
        image = module.apply(double, batch("float64")["image"], method="embed_image")
        assert module.apply(double, text, image, method="words").dtype == jnp.float64


@pytest.mark.parametrize(("mlp", "width"), [(0, 96), (10, 10)])
def test_the_width_of_the_mlp(mlp, width):
    shapes = jax.eval_shape(uniter(mlp=mlp).init, jax.random.key(0), batch("float32"))["params"]
    assert shapes["layer_1"]["mlp"]["hidden"]["kernel"].shape == (24, width)
