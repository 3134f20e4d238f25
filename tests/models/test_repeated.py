"""Modules alike give the same in one compiled loop, as on accelerators, as one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm.arrays import Encoded
from jax_itm.models import Bert, ClipText, Vit
from jax_itm.models.unet import DualPath
from jax_itm.models.uniter import Uniter

KEY = jax.random.key(0)
TEXT = {
    "ids": jax.random.randint(KEY, (3, 5), 1, 10),
    "mask": jnp.arange(5) < jnp.asarray([[5], [3], [4]]),
}
PIXELS = {"pixels": jax.random.randint(KEY, (3, 16, 16, 3), 0, 255).astype(jnp.uint8)}
REGIONS = {
    "regions": jax.random.normal(KEY, (3, 4, 6)),
    "boxes": jnp.zeros((3, 4, 4)),
    "mask": jnp.arange(4) < jnp.asarray([[4], [2], [4]]),
}
SIDE = Encoded(jnp.zeros((3, 8)), jax.random.normal(KEY, (3, 5, 8)), TEXT["mask"])
CASES = {
    "vit": (lambda remat: Vit(3, 2, 8, 8, 16, remat=remat), (PIXELS,)),
    "bert": (lambda remat: Bert(10, 8, 3, 2, 5, dropout=0.3, remat=remat), (TEXT,)),
    "clip": (lambda remat: ClipText(10, 8, 3, 2, 5, remat=remat), (TEXT,)),
    "uniter": (
        lambda remat: Uniter(vocab=10, hidden=8, layers=4, heads=2, remat=remat),
        ({"text": TEXT, "image": REGIONS},),
    ),
    "unet": (lambda remat: DualPath(8, layers=3, heads=2, remat=remat), (SIDE, SIDE)),
}


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_one_loop_is_the_layers_one_after_the_other(name, remat, monkeypatch):
    make, args = CASES[name]
    module = make(remat)
    params = module.init(KEY, *args)
    noisy = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(KEY, x.shape), params)  # not the identity

    def outputs(params):
        leaves = jax.tree.leaves(module.apply(params, *args))
        return sum(jnp.sum(jnp.sin(x)) for x in leaves if jnp.issubdtype(x.dtype, jnp.floating))

    results = []
    for cpu in (True, False):
        monkeypatch.setattr("jax_itm.models.repeated.is_cpu", lambda cpu=cpu: cpu)
        shapes = jax.eval_shape(module.init, KEY, *args)
        assert jax.tree.structure(shapes) == jax.tree.structure(params)
        fresh = lambda params: outputs(params)  # JAX knows a function that it has traced
        loops = str(jax.make_jaxpr(fresh)(noisy)).count("scan[")
        assert (loops == 0) == cpu
        results.append(jax.value_and_grad(fresh)(noisy))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), *results)


def test_each_layer_of_a_loop_drops_other_units(monkeypatch):
    monkeypatch.setattr("jax_itm.models.repeated.is_cpu", lambda: False)
    bert = Bert(10, 8, 2, 2, 5, dropout=0.5)
    params = bert.init(KEY, TEXT)
    same = jax.tree.map(lambda x: x, params["params"]["layer_0"])
    params["params"]["layer_1"] = same
    run = lambda key: bert.apply(params, TEXT, train=True, rngs={"dropout": key}).features
    np.testing.assert_array_equal(run(KEY), run(KEY))
    assert not np.array_equal(run(KEY), run(jax.random.key(1)))


def test_a_loop_returns_the_input_of_its_last_layer_too(monkeypatch):
    """IAIS's attention maps are made of it."""
    uniter = Uniter(vocab=10, hidden=8, layers=3, heads=2)
    params = uniter.init(KEY, {"text": TEXT, "image": REGIONS})

    def match(module):
        return module.match(module.embed_text(TEXT), module.embed_image(REGIONS))

    results = []
    for cpu in (True, False):
        monkeypatch.setattr("jax_itm.models.repeated.is_cpu", lambda cpu=cpu: cpu)
        results.append(uniter.apply(params, method=match))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *results)
    assert not np.allclose(results[0].last, results[0].x)
