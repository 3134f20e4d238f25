"""Masked words: which are chosen, their loss, and a run that starts from one that learnt them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import batch_sharded, make_mesh, replicated
from jax_itm.errors import UserError
from jax_itm.losses import masked_lm
from jax_itm.losses.masked_words import hide_words, masked_lm_sums
from jax_itm.methods import build
from jax_itm.train.start_rules import Source, start_from
from tests.helpers.iais import FACTS, ROWS, WORDS, batch, settings

ALONE = {
    "losses__rank__weight": 0.0,
    "losses__attention_alignment__weight": 0.0,
    "losses__masked_lm__weight": 1.0,
}
RANKED = ALONE | {"losses__rank__weight": 1.0, "losses__attention_alignment__form": "none"}
MANY = {"losses__masked_lm__share": 0.4}


def test_words_are_hidden_by_berts_rule():
    rows, words = 4000, 12
    ids = jnp.broadcast_to(jnp.arange(words), (rows, words))
    text = {"ids": ids, "mask": ids < 10}  # [CLS], eight words, [SEP], padding
    shown, chosen = hide_words(jax.random.key(0), text, 0.25, 1000)
    assert not np.any(chosen[:, [0, 9, 10, 11]])
    share = lambda x: float(jnp.sum(x) / jnp.sum(chosen))
    np.testing.assert_allclose(jnp.mean(chosen[:, 1:9]), 0.25, atol=0.01)
    np.testing.assert_allclose(share(shown["hidden"]), 0.8, atol=0.02)
    np.testing.assert_allclose(share(shown["ids"] != ids), 0.1, atol=0.02)
    assert not np.any(shown["hidden"] & ~chosen) and not np.any((shown["ids"] != ids) & ~chosen)


def test_the_sums_are_those_over_chosen_words():
    rng = np.random.default_rng(0)
    logits, ids, chosen = rng.normal(size=(3, 4, 5)), rng.integers(0, 5, (3, 4)), rng.random((3, 4)) < 0.5
    actual = masked_lm_sums(*map(jnp.asarray, (logits, ids, chosen)))
    each, right = [], []
    for at in zip(*np.nonzero(chosen), strict=True):
        p = np.exp(logits[at]) / np.exp(logits[at]).sum()
        each.append(-np.log(p[ids[at]]))
        right.append(p.argmax() == ids[at])
    np.testing.assert_allclose(actual["loss"], np.sum(each), rtol=1e-5)
    np.testing.assert_allclose(masked_lm(*map(jnp.asarray, (logits, ids, chosen))), np.mean(each), rtol=1e-5)
    assert (actual["right"], actual["count"]) == (np.sum(right), len(each))


def test_what_is_hidden_has_no_say():
    method, inputs = build(settings(**ALONE), FACTS), batch()
    params = jax.jit(method.init)(jax.random.key(0), inputs)
    hidden = jnp.zeros((ROWS, WORDS), bool).at[:, 2].set(True)
    images = method.encode_image(params, inputs["image"])
    shown = inputs["text"] | {"hidden": hidden}
    words = jax.jit(lambda ids: method._apply(params, "words", shown | {"ids": ids}, images))
    ids = inputs["text"]["ids"]
    other = words(ids.at[:, 2].set(5))
    np.testing.assert_array_equal(words(ids), other)
    assert np.any(words(ids.at[:, 1].set(5)) != other)


def one_step(config, devices):
    mesh, method, inputs = make_mesh(devices), build(config, FACTS), batch()
    with jax.set_mesh(mesh):
        params = jax.jit(method.init, out_shardings=replicated(mesh))(jax.random.key(0), inputs)
        loss = lambda p, b: method.loss(p, b, jax.random.key(1), jnp.int32(0))
        step = jax.jit(jax.grad(loss, has_aux=True), in_shardings=(replicated(mesh), batch_sharded(mesh)))
        grads, aux = step(params, jax.device_put(inputs, batch_sharded(mesh)))
        return jax.device_get(
            (optax.apply_updates(params, jax.tree.map(lambda g: -0.1 * g, grads)), aux.terms)
        )


def test_micro_batches_change_nothing():
    config = settings(**ALONE, **MANY, mining__anchors=4)
    full = one_step(config, 1)
    config.micro_batches = 4
    parts = one_step(config, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), full, parts)


@pytest.mark.parametrize("fields", [ALONE, RANKED], ids=["alone", "with ranking"])
def test_equal_on_one_and_eight_devices(fields):
    config = settings(**fields, **MANY)
    alone, spread = one_step(config, 1), one_step(config, 8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), alone, spread)
    assert ("rank" in alone[1]) == bool(fields["losses__rank__weight"])  # without a weight nothing is mined
    assert alone[1]["masked_lm"] > 1


def test_a_start_leaves_the_head_for_words_behind():
    inputs, plain = batch(), build(settings(), FACTS)
    learnt = jax.jit(build(settings(**ALONE), FACTS).init)(jax.random.key(1), inputs)
    assert "word_head" in learnt
    params = jax.jit(plain.init)(jax.random.key(0), inputs)
    assert "word_head" not in params
    flat = {"/".join(k.key for k in path): x for path, x in jax.tree_util.tree_leaves_with_path(learnt)}
    start = Source("learnt", flat, is_run=True, tokenizer=Tokenizer.fit(["a"]), facts=FACTS)
    built = start_from(params, start)
    for name, value in learnt["layer_1"]["mlp"]["out"].items():
        np.testing.assert_array_equal(built["layer_1"]["mlp"]["out"][name], value)
    del flat["layer_1/mlp/out/kernel"]
    with pytest.raises(UserError, match="layer_1/mlp/out/kernel is absent there"):
        start_from(params, start)
