"""Batch normalisation of the regions' MLP: a plain loop, any padding, and any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm.config import Facts
from jax_itm.config.load import check, default
from jax_itm.distributed.mesh import batch_sharded, make_mesh, replicated
from jax_itm.errors import UserError
from jax_itm.models import RegionEncoder
from jax_itm.models.build import image_encoder

ROWS, REGIONS, FEATURES, HIDDEN, DIM = 16, 5, 6, 4, 8


def images(padding=0):
    """A batch whose padded regions hold numbers that must not count."""
    rng = np.random.default_rng(0)
    regions = rng.normal(2, 3, (ROWS, REGIONS, FEATURES)).astype(np.float16)
    regions = np.pad(regions, ((0, 0), (0, padding), (0, 0)), constant_values=99)
    mask = np.arange(REGIONS + padding) < rng.integers(1, REGIONS + 1, (ROWS, 1))
    return {"regions": jnp.asarray(regions), "mask": jnp.asarray(mask)}


def encoder(drop=0.0, **fields):
    return RegionEncoder(DIM, pooling="mean", drop=drop, hidden=HIDDEN, norm="batch", **fields)


@pytest.fixture(scope="module")
def variables():
    """Its variables, with a scale and a bias that are not the initial ones."""
    variables = jax.jit(encoder().init)(jax.random.key(0), images())
    rng = np.random.default_rng(1)
    stir = lambda x: x + jnp.asarray(rng.normal(size=x.shape, scale=0.3), jnp.float32)
    return variables | {"params": jax.tree.map(stir, variables["params"])}


def run(module, variables, image, train=True):
    options = {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(3)}} if train else {}
    return module.apply(variables, image, train=train, **options)


def loop(params, x, mean, variance):
    """The tokens of regions x (n, f) with these statistics of the hidden units."""
    head = jax.tree.map(lambda leaf: np.asarray(leaf, float), params["projection"])
    mlp, norm = head["mlp"], head["mlp"]["batch_norm"]
    hidden = x @ mlp["hidden"]["kernel"] + mlp["hidden"]["bias"]
    normed = (hidden - mean) / np.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
    linear = x @ head["linear"]["kernel"] + head["linear"]["bias"]
    return linear + np.maximum(normed, 0) @ mlp["out"]["kernel"] + mlp["out"]["bias"]


def hidden_units(params, x):
    layer = params["projection"]["mlp"]["hidden"]
    return x @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"], float)


def test_it_is_that_of_the_loop(variables):
    image = images()
    encoded, updated = run(encoder(), variables, image)
    mask = np.asarray(image["mask"])
    regions = np.asarray(image["regions"], float)[mask]
    units = hidden_units(variables["params"], regions)
    expected = loop(variables["params"], regions, units.mean(0), units.var(0))
    np.testing.assert_allclose(np.asarray(encoded.tokens)[mask], expected, rtol=1e-3, atol=1e-4)

    running = updated["batch_stats"]["projection"]["mlp"]["batch_norm"]  # initially 0 and 1
    np.testing.assert_allclose(running["mean"], 0.1 * units.mean(0), rtol=1e-4)
    np.testing.assert_allclose(running["var"], 0.9 + 0.1 * units.var(0), rtol=1e-4)

    evaluated = run(encoder(), variables | updated, image, train=False)
    expected = loop(variables["params"], regions, np.asarray(running["mean"]), np.asarray(running["var"]))
    np.testing.assert_allclose(np.asarray(evaluated.tokens)[mask], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("train", [True, False])
def test_padding_changes_nothing(variables, train):
    plain, padded = (run(encoder(), variables, images(padding), train) for padding in (0, 3))
    if train:
        (plain, stats), (padded, padded_stats) = plain, padded
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), stats, padded_stats)
    np.testing.assert_allclose(padded.embedding, plain.embedding, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(padded.tokens[:, :REGIONS], plain.tokens, rtol=1e-4, atol=1e-5)


def test_an_evaluated_image_does_not_depend_on_its_batch(variables):
    image = images()
    full = run(encoder(), variables, image, train=False).embedding
    alone = run(encoder(), variables, jax.tree.map(lambda x: x[:1], image), train=False).embedding
    np.testing.assert_allclose(alone, full[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("drop", [0.0, 0.3])
def test_one_and_eight_devices_agree(variables, drop):
    """Values, gradients and running statistics: those of the whole batch, not of a device's part."""
    image = images()
    target = jax.random.normal(jax.random.key(5), (ROWS, DIM))

    def loss(params, image):
        encoded, updated = run(encoder(drop), variables | {"params": params}, image)
        return jnp.sum(encoded.embedding * target), updated

    results = []
    for devices in (1, 8):
        mesh = make_mesh(devices)
        full = replicated(mesh)
        with jax.set_mesh(mesh):
            step = jax.jit(
                jax.value_and_grad(loss, has_aux=True),
                in_shardings=(full, batch_sharded(mesh)),
                out_shardings=full,
            )
            params = jax.device_put(variables["params"], full)
            results.append(jax.device_get(step(params, jax.device_put(image, batch_sharded(mesh)))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), *results)
    grads = results[0][1]["projection"]["mlp"]
    assert np.any(grads["batch_norm"]["scale"]) and np.any(grads["hidden"]["kernel"])
    # A bias before batch normalisation is taken off again with the mean.
    np.testing.assert_allclose(grads["hidden"]["bias"], 0, atol=1e-4)


def test_bfloat16_keeps_float32_statistics(variables):
    _, updated = run(encoder(dtype=jnp.dtype("bfloat16")), variables, images())
    assert {x.dtype for x in jax.tree.leaves(updated)} == {jnp.dtype("float32")}


def test_a_config_asks_for_it():
    config = default("vsepp")
    config.image.norm = "batch"
    check(config)
    assert image_encoder(config, Facts()).norm == "batch"
    config.micro_batches = 2
    with pytest.raises(UserError, match=r"config\.image\.norm='batch': needs config\.micro_batches=1"):
        check(config)
    config.micro_batches = 1
    config.image.name = "vit"
    config.data.modality = "pixels"
    with pytest.raises(UserError, match=r"config\.image\.norm='batch': .* needs config\.image\.hidden"):
        check(config)
    config.image.hidden = 8
    check(config)
    assert image_encoder(config, Facts()).norm == "batch"
