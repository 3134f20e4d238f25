"""The softmax over a pool, of UNITER and of the matcher on tokens: values, gradients, devices, parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_itm import losses
from jax_itm.config import check, default
from jax_itm.distributed.mesh import batch_sharded, make_mesh, replicated
from jax_itm.errors import UserError
from jax_itm.methods import build
from tests.helpers.iais import FACTS, POOL, REGIONS, ROWS, WORDS, batch, settings

SOFTMAX = {"losses__rank__weight": 0.0, "losses__pool_softmax__weight": 1.0}


def tokens_settings(**fields):
    """The matcher's config, as `settings` gives UNITER's."""
    config = default("matcher")
    config.dim = 8
    config.text.update({"name": "bow", "drop": 0.0})
    config.image.drop = 0.0
    config.matcher.update({"hidden": 16, "heads": 2, "dropout": 0.0, "frozen": False})
    config.mining.update({"pool": POOL, "anchors": 3, "hardest": 2})
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    config.batch_size, config.data.max_words, config.data.max_regions = ROWS, WORDS, REGIONS
    return config


CONFIGS = {
    "uniter": lambda **fields: settings(**SOFTMAX, **fields),
    "tokens": tokens_settings,
    "pooled": lambda **fields: tokens_settings(matcher__pooled=True, **fields),
}


def loop(scores, ids):
    """A ten-line softmax over a pool."""
    total = 0.0
    for i in range(len(scores)):
        others = [j for j in range(len(scores)) if ids[j] != ids[i]]
        for own, candidates in ((scores[i, i], scores[i, others]), (scores[i, i], scores[others, i])):
            total += np.log(np.sum(np.exp([own, *candidates]))) - own
    return total / (2 * len(scores))


def test_pool_softmax_is_a_loop():
    rng = np.random.default_rng(0)
    scores, ids = rng.normal(size=(6, 6)), np.array([0, 1, 0, 2, 3, 3])
    value = lambda scores: losses.pool_softmax(scores, jnp.asarray(ids))
    np.testing.assert_allclose(value(jnp.asarray(scores, jnp.float32)), loop(scores, ids), rtol=1e-5)
    step = 1e-5 * rng.normal(size=scores.shape)
    grad = jax.grad(value)(jnp.asarray(scores, jnp.float32))
    change = loop(scores + step, ids) - loop(scores - step, ids)
    np.testing.assert_allclose(np.sum(grad * 2 * step), change, rtol=1e-3)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_loss_is_that_of_all_pairs_of_each_pool(kind):
    form = {"losses__attention_alignment__form": "singular"}
    method, inputs = build(CONFIGS[kind](**form), FACTS), batch()
    params = jax.jit(method.init)(jax.random.key(0), inputs)
    total, aux = jax.jit(method.loss)(params, inputs, jax.random.key(1), jnp.asarray(5))
    images, texts = method.encode_image(params, inputs["image"]), method.encode_text(params, inputs["text"])
    scores = np.asarray(jax.jit(method.score)(params, images, texts), np.float64)
    ids = np.asarray(inputs["image_id"])
    pools = [slice(k, k + POOL) for k in range(0, ROWS, POOL)]
    expected = np.mean([loop(scores[rows, rows], ids[rows]) for rows in pools])
    np.testing.assert_allclose(aux.terms["pool_softmax"], expected, rtol=1e-4)
    maps = jax.jit(method.maps)(params, inputs)
    language = losses.attention_alignment(maps, form="singular")
    np.testing.assert_allclose(aux.terms["attention_alignment/language"], np.mean(language), rtol=1e-3)
    vision = losses.attention_alignment(maps.turned(), form="singular")
    np.testing.assert_allclose(aux.terms["attention_alignment/vision"], np.mean(vision), rtol=1e-3)
    weighted = aux.terms["weighted/pool_softmax"] + aux.terms["weighted/attention_alignment"]
    np.testing.assert_allclose(total, weighted, rtol=1e-5)


@pytest.mark.parametrize(("kind", "parts"), [("uniter", 1), ("tokens", 1), ("tokens", 2), ("pooled", 1)])
def test_one_sgd_step_is_equal_on_one_and_eight_devices(kind, parts):
    method = build(CONFIGS[kind](micro_batches=parts) if parts > 1 else CONFIGS[kind](), FACTS)
    whole = build(CONFIGS[kind](), FACTS)
    inputs = batch()
    params = jax.jit(whole.init)(jax.random.key(0), inputs)
    optimizer = optax.sgd(0.1)

    def step(params, inputs, method):
        grads = jax.grad(lambda p: method.loss(p, inputs, jax.random.key(2), jnp.asarray(3))[0])(params)
        return optax.apply_updates(params, optimizer.update(grads, optimizer.init(params))[0])

    alone = jax.jit(lambda p, b: step(p, b, whole))(params, inputs)
    mesh = make_mesh(8)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, replicated(mesh)), jax.device_put(inputs, batch_sharded(mesh))
        together = jax.jit(lambda p, b: step(p, b, method))(*placed)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(other, one, atol=2e-6)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"losses__rank__weight": 1.0},
            "config.losses.pool_softmax.weight: instead of config.losses.rank.weight",
        ),
        ({"losses__masked_lm__weight": 1.0}, "config.losses.masked_lm.weight: needs UNITER"),
        ({"matcher__heads": 3}, "config.matcher.heads=3: does not divide config.matcher.hidden=16"),
        ({"image__norm": "batch"}, "config.image.norm: a matcher takes encoders without"),
    ],
)
def test_what_a_matcher_cannot_be(fields, line):
    with pytest.raises(UserError, match=line):
        check(tokens_settings(**fields))


def test_neighbours_need_the_softmax():
    with pytest.raises(UserError, match="neighbours: needs config"):
        check(settings(mining__neighbours="x.npz"))
