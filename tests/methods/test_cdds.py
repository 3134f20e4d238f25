"""CDDS: the UNet, its constraints against loops, scores of token sets, one step on 1 and 8 devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm.arrays import Encoded
from jax_itm.config import check
from jax_itm.errors import UserError
from jax_itm.losses import modality_loss, reconstruction_loss, sample_distributions
from jax_itm.losses.token_similarity import CELLS, maxmean, maxmean_pairs, token_set
from jax_itm.methods import build
from jax_itm.methods.scores import mean_selection
from jax_itm.models.layers import TransformerLayer
from jax_itm.models.unet import DualPath, noise_bank
from tests.helpers.methods import FACTS, QUICK, batch, one_sgd_step, small


def started(**fields):
    method, data = build(small("cdds", **fields), FACTS, 100), batch()
    return method, data, jax.jit(method.init)(jax.random.key(0), data)


@pytest.mark.parametrize("form", ["one_minus", "literal"])
def test_modality_loss_is_its_loop(form):
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(3, 4, 5)), np.arange(4) < np.array([[4], [2], [1]])
    with jax.enable_x64(True):
        loss = lambda x: modality_loss(x, jnp.asarray(mask), form)
        actual, slope = jax.value_and_grad(loss)(jnp.asarray(x))

    def loop(x):
        items = []
        for tokens, real in zip(x, mask, strict=True):
            p = [np.exp(t) / np.exp(t).sum() for t in tokens[real]]
            alike = [np.exp(-np.sum(a * np.log(a / b))) for a in p for b in p]
            items.append(np.sum(alike) if form == "literal" else np.mean(1 - np.array(alike)))
        return np.mean(items)

    np.testing.assert_allclose(actual, loop(x), rtol=1e-10)
    step = rng.normal(size=x.shape) * 1e-6
    np.testing.assert_allclose(np.sum(slope * step), (loop(x + step) - loop(x - step)) / 2, rtol=1e-4)


def test_distance_is_a_mean_over_true_tokens_and_dimensions():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4, 5))
    mask = np.arange(4) < np.array([[4], [2], [1]])
    actual = reconstruction_loss(jnp.asarray(a), jnp.asarray(b), jnp.asarray(mask))
    np.testing.assert_allclose(actual, np.mean((a - b)[mask] ** 2), rtol=1e-5)


def sets(i=5, t=7, r=4, w=6, d=8):
    rng = np.random.default_rng(0)
    make = lambda n, k: token_set(
        jnp.asarray(rng.normal(size=(n, k, d))),
        jnp.asarray(np.arange(k) < rng.integers(1, k + 1, (n, 1))),
        jnp.asarray(rng.normal(size=(n, d))),
    )
    return make(i, r), make(t, w)


@pytest.mark.parametrize("cells", [CELLS, 60, 1])
def test_maxmean_is_its_loop_whatever_the_tiles(cells, monkeypatch):
    monkeypatch.setattr("jax_itm.losses.token_similarity.CELLS", cells)
    images, texts = sets()
    actual = maxmean(images, texts)
    for i in range(5):
        for t in range(7):
            a = np.asarray(images.tokens[i][images.mask[i]] @ texts.tokens[t][texts.mask[t]].T)
            np.testing.assert_allclose(actual[i, t], a.max(0).mean() + a.max(1).mean(), rtol=1e-5)
    rows = jax.tree.map(lambda x: x[:5], texts)
    np.testing.assert_allclose(maxmean_pairs(images, rows), jnp.diagonal(actual[:, :5]), rtol=1e-5)


def test_maxmean_holds_a_bounded_number_of_cosines():
    shapes = lambda n, k, d=16: jax.eval_shape(
        lambda: token_set(jnp.zeros((n, k, d)), jnp.ones((n, k), bool), jnp.zeros((n, d)))
    )
    for images, texts in ((1000, 500), (4000, 2000)):  # 288 and 4,608 million cosines
        inputs = shapes(images, 36), shapes(texts, 16)
        memory = jax.jit(maxmean).lower(*inputs).compile().memory_analysis()
        own = images * (36 + texts) * 4  # the scores and one masked copy of the tokens
        assert memory.temp_size_in_bytes < 3 * 4 * CELLS + 3 * own + 16 * images * 36 * 8


SWITCHES = {
    "paper, noise, parts": {"losses.sampling.identity": 0.0, "head.noises": 0, "micro_batches": 2},
    "decoupling": {"text.name": "bigru", "head.name": "tokens", "losses.decoupling.weight": 0.0},
    "contrast": {
        "losses.sampling.weight": 0.0,
        "losses.decoupling.crossed": 0.0,
        "losses.info_nce.weight": 1.0,
        "losses.info_nce.learn_temperature": False,
    },
}


@pytest.mark.parametrize("name", SWITCHES)
def test_one_sgd_step_of_each_ablation_is_equal_on_one_and_eight_devices(name):
    config = small("cdds", **SWITCHES[name])
    alone, spread = one_sgd_step(config, 1, batch()), one_sgd_step(config, 8, batch())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=5e-5), alone, spread)
    assert np.isfinite(alone[1]["loss"])


@pytest.mark.parametrize("name", ["info_nce", "dias"])
def test_sampling_is_a_term_of_any_dual_encoder(name):
    fields = {"losses.sampling.weight": 0.5}
    method, data = build(small(name, **QUICK | fields), FACTS, 100), batch()
    params = jax.jit(method.init)(jax.random.key(0), data)
    loss = lambda params: method.loss(params, data, jax.random.key(1), jnp.int32(0))
    assert params["loss"]["sampling"]["thresholds"].shape == (2,)
    (full, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert np.all(grads["loss"]["sampling"]["thresholds"] != 0)
    assert 0 < aux.terms["sampling/kept"] < 1
    plain = build(small(name, **QUICK), FACTS, 100)
    without = {k: v for k, v in params["loss"].items() if k != "sampling"}
    params = {**{k: v for k, v in params.items() if k != "stats"}, "loss": without}
    alone, _ = jax.jit(plain.loss)(params, data, jax.random.key(1), jnp.int32(0))
    np.testing.assert_allclose(full - alone, 0.5 * aux.terms["sampling"], rtol=1e-4)


@pytest.mark.parametrize("score", ["maxmean", "cosine", "mapped"])
def test_a_score_does_not_depend_on_batch_mates_or_padding(score):
    method, data, params = started(score=score)
    encode_image, encode_text = jax.jit(method.encode_image), jax.jit(method.encode_text)
    images, texts = encode_image(params, data["image"]), encode_text(params, data["text"])
    full = method.score(params, images, texts)
    words, mask = data["text"], data["image"]["mask"][..., None]
    row = slice(3, 4)
    other = {
        k: v[row]
        for k, v in (data["image"] | {"regions": jnp.where(mask, data["image"]["regions"], 9)}).items()
    }
    ids = jnp.where(words["mask"], words["ids"], 7)[row]
    longer = {"ids": jnp.pad(ids, ((0, 0), (0, 2))), "mask": jnp.pad(words["mask"][row], ((0, 0), (0, 2)))}
    alone = method.score(params, encode_image(params, other), encode_text(params, longer))
    np.testing.assert_allclose(alone[0, 0], full[3, 3], rtol=1e-4, atol=1e-5)
    pairs = method.score_pairs(params, images, texts)
    np.testing.assert_allclose(pairs, jnp.diagonal(full), rtol=1e-4, atol=1e-5)
    assert np.isfinite(full).all()


def test_noise_is_new_in_training_and_fixed_afterwards():
    method, data, params = started()
    of_key = jax.jit(lambda key: method.loss(params, data, key, jnp.int32(0))[0])
    loss = lambda key: float(of_key(jax.random.key(key)))
    assert loss(0) == loss(0)
    assert loss(0) != loss(1)
    again = [jax.jit(method.encode_image)(params, data["image"]).tokens for _ in range(2)]
    np.testing.assert_array_equal(*again)
    silent, _, _ = started(**{"head.noises": 0})
    quiet = jax.jit(silent.encode_image)(params, data["image"]).tokens
    assert np.abs(quiet - again[0]).max() > 1e-4


def test_the_moments_of_the_run_are_an_average_of_those_of_its_batches():
    """At first a plain mean; afterwards it forgets slowly."""
    method, data, params = started()
    loss = jax.jit(lambda params, key: method.loss(params, data, key, jnp.int32(0))[1].stats)
    seen = []
    for key in range(3):
        fresh = loss({**params, "stats": method.init(jax.random.key(0), data)["stats"]}, jax.random.key(key))
        seen.append(fresh["losses"]["sampling"]["moments"])
        params = {**params, "stats": loss(params, jax.random.key(key))}
    own = params["stats"]["losses"]["sampling"]
    assert own["count"] == 3
    np.testing.assert_allclose(own["moments"], np.mean(seen, axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image.pooling": "gpo"}, "image.pooling='gpo': a head pools by 'mean'"),
        ({"head.name": "tokens"}, "losses.decoupling.weight: needs config.head.name='unet', not 'tokens'"),
        ({"head.heads": 3}, "heads=3: does not divide config.dim=16"),
        ({"score": "mapped", "losses.sampling.weight": 0.0}, "needs config.losses.sampling.weight above 0"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        check(small("cdds", **fields))


def test_the_unet_is_equations_1_to_4():
    """Two layers, so that the order of the skips counts: e_2 is H without noise, then e_1."""
    rng, rows, count, size = np.random.default_rng(0), 3, 5, 16
    model = DualPath(size, layers=2, heads=2, mlp=2, samples=3, scale=0.5)
    tokens = jnp.asarray(rng.normal(size=(rows, count, size)), jnp.float32)
    mask = jnp.asarray(np.arange(count) < np.array([[5], [3], [1]]))
    inputs = Encoded(tokens[:, 0], tokens, mask)
    params = jax.jit(model.init)(jax.random.key(0), inputs, inputs)["params"]
    image = jax.jit(lambda p: model.apply({"params": p}, inputs, method="image"))
    # A part that adds nothing, as all do at the start, would hide what it adds.
    params = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(size=x.shape, scale=0.1), jnp.float32), params)
    actual = image(params)

    layer = jax.jit(
        lambda of, x, hidden: TransformerLayer(2, hidden).apply({"params": of}, x, mask, False),
        static_argnums=2,
    )

    own = params["of_image"]
    e_1 = layer(own["encoder_0"], tokens, 2 * size)
    e_2 = layer(own["encoder_1"], e_1, 2 * size)
    delta = noise_bank(count, 3, size)
    for name, component in (("semantic", actual.tokens), ("modality", actual.modality)):
        each = []
        for k in range(3):
            noise = layer(params["noise"], jnp.broadcast_to(delta[:, k], tokens.shape), 2 * size)
            y = e_2 + 0.5 * noise
            for n, skip in enumerate((e_2, e_1)):
                y = layer(own[name][f"layer_{n}"], jnp.concatenate([y, skip], axis=-1), 4 * size)
                linear = own[name][f"linear_{n}"]
                y = y @ linear["kernel"] + linear["bias"]
            each.append(y)
        np.testing.assert_allclose(component, np.mean(each, axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(actual.origin, tokens)


def test_a_component_starts_near_its_token():
    tokens = jax.random.normal(jax.random.key(1), (3, 5, 16))
    inputs = Encoded(tokens[:, 0], tokens, jnp.ones((3, 5), bool))
    model = DualPath(16, layers=2, heads=2, mlp=2, samples=0)
    actual, _ = jax.jit(model.init_with_output)(jax.random.key(0), inputs, inputs)
    for component in (actual[0].tokens, actual[0].modality):
        assert 0 < np.mean(np.square(component - tokens)) < 0.05  # of 1; usual start values: 1 and more


def test_mapped_is_the_mean_cosine_through_both_selections():
    method, data, params = started(score="mapped")
    rng = np.random.default_rng(0)
    moments = jnp.asarray(rng.normal(size=(2, 2, 16)) / 20, jnp.float32)
    losses = params["stats"]["losses"]
    own = losses["sampling"] | {"moments": moments}
    params = params | {"stats": params["stats"] | {"losses": losses | {"sampling": own}}}
    _, (s_v, s_t) = mean_selection(params, method.options.sampling)
    scores = method.score(
        params,
        *(
            jax.jit(e)(params, data[side])
            for e, side in ((method.encode_image, "image"), (method.encode_text, "text"))
        ),
    )
    run = jax.jit(method.encode, static_argnums=1)
    v, t = (run(params, side, data[side]) for side in ("image", "text"))
    mean = lambda one: np.stack(
        [np.asarray(x)[np.asarray(m)].mean(0) for x, m in zip(one.tokens, one.mask, strict=True)]
    )
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    v, t = mean(v), mean(t)
    there, back = t @ np.asarray(s_v.weights).T, v @ np.asarray(s_t.weights).T
    expected = (unit(v) @ unit(there).T + unit(back) @ unit(t).T) / 2
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)


def test_each_component_has_its_own_weight():
    """w_s on the semantic, w_m on the modality, w_x on the sampled component (equations (13) and (14))."""
    method, data, params = started(**{"head.noises": 0, "image.drop": 0.0, "text.drop": 0.0})
    parts = jnp.asarray([0.5, 2.0, 3.0])  # w_s, w_m, w_x
    params = params | {"loss": params["loss"] | {"decoupling": {"parts": parts}}}
    _, aux = jax.jit(method.loss)(params, data, jax.random.key(0), jnp.int32(0))
    sides = [method.encode(params, side, data[side]) for side in ("image", "text")]
    tokens = [x for one in sides for x in (one.tokens, one.mask)]
    sampled = sample_distributions(*tokens, thresholds=params["loss"]["sampling"]["thresholds"])
    fused = crossed = 0.0
    for one, x in zip(sides, (sampled.image, sampled.text), strict=True):
        fused += reconstruction_loss(2.0 * one.modality + 0.5 * one.tokens, one.origin, one.mask)
        crossed += reconstruction_loss(2.0 * one.modality + 3.0 * x, one.origin, one.mask)
    actual = [aux.terms[f"decoupling/{name}"] for name in ("fused", "crossed")]
    np.testing.assert_allclose(actual, [fused, crossed], rtol=1e-4)


def test_a_plain_contrast_sorts_nothing():
    method, data, params = started(**SWITCHES["contrast"])
    text = str(jax.make_jaxpr(lambda p: method.loss(p, data, jax.random.key(0), jnp.int32(0)))(params))
    assert "sort[" not in text
