"""Every preset: one SGD step on 1 and 8 devices, exact accumulation, embeddings that stand alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm.config import PRESETS
from jax_itm.methods import DualEncoder, build
from tests.helpers.methods import FACTS, QUICK, awake, batch, one_sgd_step, small

SOFT = {"losses.spatial.mask": "soft", "losses.spatial.learn_alpha": True}
VARIANTS = [  # DIAS as it is by default is the last, with BiGRU and GPO; IAIS has its own in test_iais
    *((name, {}) for name in sorted(PRESETS) if name not in ("dias", "iais")),
    ("dias", {"losses.triplet.negatives": "hardest", "losses.dimension.samples": "attended"}),
    ("dias", SOFT | {"losses.dimension.form": "infonce"}),
    ("vsepp", {"losses.triplet.sum_for": "0 epochs", "text.name": "bert", "text.pooling": "max"}),
    ("info_nce", {"image.name": "vit", "data.modality": "pixels"}),
    ("sigmoid", {"losses.dimension.weight": 1.0, "losses.dimension.samples": "running"}),
    (
        "vsepp",
        {"losses.triplet.sum_for": "0 epochs", "losses.triplet.negatives": "knn", "image.norm": "batch"},
    ),
    ("dias", {"micro_batches": 2, "text.name": "bigru", "text.pooling": "gpo", "image.pooling": "gpo"}),
]


@pytest.mark.parametrize(("name", "fields"), VARIANTS, ids=lambda x: str(x)[:40])
def test_one_sgd_step_is_equal_on_one_and_eight_devices(name, fields):
    config = small(name, **QUICK | fields)
    data = batch(config.data.modality)
    alone, spread = one_sgd_step(config, 1, data), one_sgd_step(config, 8, data)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), alone, spread)


def test_micro_batches_change_nothing():
    fields = QUICK | {"image.drop": 0.0, "text.drop": 0.0}
    full = one_sgd_step(small("dias", **fields), 1, batch())
    parts = one_sgd_step(small("dias", **fields, micro_batches=4), 1, batch())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), full, parts)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(inputs["x"]))


def test_micro_batches_refuse_batch_statistics():
    inputs = {"image": {"x": jnp.ones((4, 5))}, "text": {"x": jnp.eye(4, 6)}}

    def loss(parts):
        method = DualEncoder(Normed(), Normed(), {"info_nce": {"weight": 1.0}}, micro_batches=parts)
        params = method.init(jax.random.key(0), inputs)
        return method.loss(params, inputs, jax.random.key(1), jnp.int32(0))

    assert set(loss(1)[1].stats) == {"image", "text"}
    with pytest.raises(ValueError, match="micro_batches=2: the image encoder has batch statistics"):
        loss(2)


# The encoders of a matcher are frozen: tests/models/test_token_matcher.py.
@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"matcher"}))
def test_every_encoder_parameter_gets_a_gradient(name):
    config = small(name, **({} if name == "dias" else QUICK))  # DIAS has BiGRU and GPO
    method, data = build(config, FACTS, 100), batch()
    params = awake(jax.jit(method.init)(jax.random.key(0), data))
    loss = lambda params: method.loss(params, data, jax.random.key(1), jnp.int32(0))[0]
    grads = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params))
    dead = [jax.tree_util.keystr(path) for path, grad in grads if not np.any(grad)]
    assert all(name.startswith("['stats']") for name in dead)  # estimated, not learnt


@pytest.mark.parametrize("fields", [{}, {"text.name": "bert", "image.pooling": "max"}])
def test_an_embedding_does_not_depend_on_its_batch_or_padding(fields):
    config = small("dias", **fields)
    method, data = build(config, FACTS, 100), batch()
    params = jax.jit(method.init)(jax.random.key(0), data)
    encode_image, encode_text = jax.jit(method.encode_image), jax.jit(method.encode_text)
    image, text = encode_image(params, data["image"]), encode_text(params, data["text"])
    np.testing.assert_allclose(jnp.linalg.norm(image, axis=1), 1, rtol=1e-5)
    words, image_mask = data["text"], data["image"]["mask"][..., None]
    noise = jnp.where(image_mask, data["image"]["regions"], 9)  # what is masked has no say
    ids = jnp.where(words["mask"], words["ids"], 7)
    row = slice(3, 4)
    alone = encode_text(params, {"ids": ids[row], "mask": words["mask"][row]})
    np.testing.assert_allclose(alone, text[row], rtol=1e-4, atol=1e-6)
    other = {k: v[row] for k, v in (data["image"] | {"regions": noise}).items()}
    np.testing.assert_allclose(encode_image(params, other), image[row], rtol=1e-4, atol=1e-6)


def test_dropped_words_are_as_if_they_were_not_there():
    method, data = build(small(), FACTS, 100), batch()
    params = jax.jit(method.init)(jax.random.key(0), data)
    ids = jnp.array([[3, 4, 5, 6, 0, 0]])
    without = jnp.array([[3, 5, 6, 0, 0, 0]])
    hole = jnp.array([[True, False, True, True, False, False]])
    a = method.encode_text(params, {"ids": ids, "mask": hole})
    b = method.encode_text(params, {"ids": without, "mask": jnp.arange(6)[None] < 3})
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_bfloat16_keeps_float32_parameters_and_losses():
    params, terms = one_sgd_step(small("dias", dtype="bfloat16"), 1, batch())
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves((params, terms)))
    method, data = build(small("dias"), FACTS, 100), batch()
    params = awake(jax.jit(method.init)(jax.random.key(0), data))
    rng = jax.random.fold_in(jax.random.key(0), 0)  # as in the first step
    _, exact = jax.jit(method.loss)(params, data, rng, jnp.int32(0))
    assert abs(terms["triplet"] - exact.terms["triplet"]) < 0.1 * abs(exact.terms["triplet"])
