"""Every encoder stands alone, and one that starts from random values is the module of a pretrained one."""

import importlib
import pkgutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm import models
from jax_itm.config import Facts
from jax_itm.config.load import default
from jax_itm.models import BackboneEncoder, Bert, Vit
from jax_itm.models.build import image_encoder, text_encoder
from tests.helpers.examples import run_examples

MODULES = sorted(module.name for module in pkgutil.iter_modules(models.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    """Those of the docstrings."""
    run_examples(importlib.import_module(f"jax_itm.models.{name}"))


def test_every_public_module_has_an_example():
    public = [getattr(models, name) for name in models.__all__]
    modules = [value for value in public if isinstance(value, type) and issubclass(value, nn.Module)]
    assert len(modules) > 10
    assert [module.__name__ for module in modules if ">>>" not in str(module.__doc__)] == []


def config_of(side, name, **fields):
    config = default("info_nce")
    config.dim = 8
    config.data.max_words = 5
    config.data.image_size = 16
    config[side].update({"name": name, "width": 12, "layers": 2, "heads": 2, "pooling": "mean"})
    config[side].update(fields)
    return config


def test_a_random_vit_is_the_module_of_a_pretrained_one():
    encoder = image_encoder(config_of("image", "vit", patch=8, drop=0.5), Facts())
    assert isinstance(encoder, BackboneEncoder) and isinstance(encoder.backbone, Vit)
    image = {"pixels": jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)), jnp.uint8)}
    variables = jax.jit(encoder.init)(jax.random.key(0), image)
    assert set(variables["params"]["backbone"]) == {"patches", "positions", "layer_0", "layer_1", "norm"}
    encoded = jax.jit(encoder.apply)(variables, image)
    assert encoded.tokens.shape == (3, 4, 8) and encoded.mask.all()
    train = jax.jit(lambda key: encoder.apply(variables, image, train=True, rngs={"dropout": key}))
    dropped = [train(jax.random.key(k)) for k in range(4)]
    assert not all(one.mask.all() for one in dropped) and all(one.mask.any(axis=1).all() for one in dropped)


def test_a_dropped_patch_is_hidden_from_the_others():
    vit = Vit(layers=1, heads=2, width=8, patch=8, image_size=16, drop=0.5, class_token=True, registers=1)
    image = {"pixels": jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)), jnp.uint8)}
    variables = jax.jit(vit.init)(jax.random.key(0), image)
    run = jax.jit(lambda image: vit.apply(variables, image, train=True, rngs={"dropout": jax.random.key(1)}))
    tokens = run(image)
    assert tokens.mask[:, :2].all()  # what is learnt stays
    hidden = np.asarray(~tokens.mask[:, 2:]).reshape(4, 2, 2).repeat(8, 1).repeat(8, 2)
    assert hidden.any()
    other = run({"pixels": jnp.where(hidden[..., None], 0, image["pixels"])})
    np.testing.assert_allclose(other.features[tokens.mask], tokens.features[tokens.mask], atol=1e-5)


def test_a_random_bert_is_the_module_of_a_pretrained_one():
    encoder = text_encoder(config_of("text", "bert", drop=0.5, dropout=0.0), Facts(vocab=10))
    assert isinstance(encoder, BackboneEncoder) and isinstance(encoder.backbone, Bert)
    text = {"ids": jnp.ones((3, 5), jnp.int32), "mask": jnp.arange(5) < jnp.asarray([[5], [3], [1]])}
    variables = jax.jit(encoder.init)(jax.random.key(0), text)
    assert set(variables["params"]["backbone"]["embeddings"]) == {"words", "positions", "norm"}
    train = jax.jit(lambda key: encoder.apply(variables, text, train=True, rngs={"dropout": key}))
    masks = [np.asarray(train(jax.random.key(k)).mask) for k in range(4)]
    assert not all(mask[0].all() for mask in masks) and all((mask <= text["mask"]).all() for mask in masks)


@pytest.mark.parametrize("side", ["image", "text"])
def test_hrem_pooling_is_a_choice(side):
    config = config_of(side, {"image": "vit", "text": "bow"}[side], pooling="hrem")
    config.image.patch = 8
    if side == "text":
        encoder = text_encoder(config, Facts(vocab=10))
        inputs = {"ids": jnp.ones((2, 5), jnp.int32), "mask": jnp.ones((2, 5), bool)}
    else:
        encoder = image_encoder(config, Facts())
        inputs = {"pixels": jnp.zeros((2, 16, 16, 3), jnp.uint8)}
    variables = jax.jit(encoder.init)(jax.random.key(0), inputs)
    assert "layer" in variables["params"]["hrem"]
    rngs = {"dropout": jax.random.key(1)}
    encoded = jax.jit(lambda x: encoder.apply(variables, x, train=True, rngs=rngs))(inputs)
    np.testing.assert_allclose(np.linalg.norm(encoded.embedding, axis=1), 1, rtol=1e-5)
