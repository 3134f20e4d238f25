"""The cross-encoder: its maps, its mining, its step on several devices, and re-ranking."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from jax_itm.config import check
from jax_itm.distributed.mesh import batch_sharded, make_mesh, replicated
from jax_itm.errors import UserError
from jax_itm.methods import build
from jax_itm.train.loop import check_finite
from tests.helpers.iais import FACTS, POOL, ROWS, WORDS, batch, settings


@pytest.fixture(scope="module")
def built():
    """A method, its parameters, stirred so that attention is uneven, and a batch."""
    method, inputs = build(settings(), FACTS), batch()
    params = jax.jit(method.init)(jax.random.key(0), inputs)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    stirred = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return method, jax.tree.unflatten(tree, stirred), inputs


def test_attention_maps_are_four_softmaxes_of_the_last_layers_input(built):
    method, params, inputs = built
    maps = jax.jit(method.maps)(params, inputs)
    text, image = method._embed(params, inputs)
    last = method._apply(params, "match", text, image).last
    attention = params["layer_1"]["attention"]
    project = lambda part: last @ part["kernel"].reshape(16, 16) + part["bias"].ravel()
    q, k = (np.asarray(project(attention[name]), np.float64) for name in ("query", "key"))
    row, size = 1, 8
    words = np.flatnonzero(inputs["text"]["mask"][row])[1:-1]  # neither [CLS] nor [SEP]
    regions = WORDS + np.flatnonzero(inputs["image"]["mask"][row])

    def loop(queries, keys):
        heads = []
        for h in range(2):
            at = slice(h * size, (h + 1) * size)
            z = q[row][queries, at] @ k[row][keys, at].T / np.sqrt(size)
            e = np.exp(z - z.max(1, keepdims=True))
            heads.append(e / e.sum(1, keepdims=True))
        return np.mean(heads, axis=0)

    local = regions - WORDS
    for actual, here, there, rows, columns in (
        (maps.own, words, words, words, words),
        (maps.other, regions, regions, local, local),
        (maps.out, words, regions, words, local),
        (maps.back, regions, words, local, words),
    ):
        np.testing.assert_allclose(actual[row][np.ix_(rows, columns)], loop(here, there), atol=2e-5)
        np.testing.assert_allclose(np.sum(actual[row][rows], axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(maps.mask[row]), words)


def test_a_pairs_score_does_not_depend_on_its_company_or_padding(built):
    method, params, inputs = built
    images, texts = method.encode_image(params, inputs["image"]), method.encode_text(params, inputs["text"])
    grid = method.score(params, images, texts)
    pairs = method.score_pairs(params, images, texts)
    np.testing.assert_allclose(pairs, np.diag(grid), atol=1e-5)
    ids = jnp.where(inputs["text"]["mask"], inputs["text"]["ids"], 5)
    regions = jnp.where(inputs["image"]["mask"][..., None], inputs["image"]["regions"], 9)
    images = method.encode_image(params, inputs["image"] | {"regions": regions})
    texts = method.encode_text(params, inputs["text"] | {"ids": ids})
    np.testing.assert_allclose(method.score_pairs(params, images, texts), pairs, atol=1e-5)


@pytest.mark.parametrize("by_image", [True, False])
def test_mining_takes_the_hardest_of_other_images(built, by_image):
    method, params, inputs = built
    pool = jax.tree.map(lambda x: x[:POOL], inputs)
    texts, images = method._embed(params, pool)
    ways = method.miner.hardest(params, texts, images, jnp.asarray(pool["image_id"]))
    actual, real = (x[0 if by_image else 1] for x in ways)
    encoded = method.encode_image(params, pool["image"]), method.encode_text(params, pool["text"])
    scores = np.asarray(method.score(params, *encoded))
    scores = scores if by_image else scores.T
    for anchor in range(3):
        others = [j for j in range(POOL) if pool["image_id"][j] != pool["image_id"][anchor]]
        best = sorted(others, key=lambda j: -scores[anchor, j])[:2]
        assert list(actual[anchor][real[anchor]]) == best


def test_an_anchor_without_negatives_adds_nothing(built):
    method, params, inputs = built
    alone = inputs | {"image_id": jnp.zeros(ROWS, jnp.int32)}
    value, aux = jax.jit(method.loss)(params, alone, jax.random.key(0), jnp.int32(0))
    assert aux.terms["rank"] == 0
    assert np.isfinite(value)


@pytest.mark.parametrize("alignment", ["singular", "distributed", "congruence", "none"])
def test_one_and_eight_devices_agree(built, alignment):
    """Loss, terms and the parameters after a step of plain SGD; pools go whole to a device."""
    _, params, inputs = built
    method = build(settings(losses__attention_alignment__form=alignment), FACTS)
    stepped = []
    for devices in (1, 8):
        mesh = make_mesh(devices)

        def update(params, batch):
            (_, aux), grads = jax.value_and_grad(method.loss, has_aux=True)(
                params, batch, jax.random.key(5), jnp.int32(1)
            )
            return aux.terms, optax.apply_updates(params, jax.tree.map(lambda g: -0.1 * g, grads))

        full = replicated(mesh)
        with jax.set_mesh(mesh):
            step = jax.jit(update, in_shardings=(full, batch_sharded(mesh)), out_shardings=full)
            stepped.append(jax.device_get(step(jax.device_put(params, full), inputs)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), *stepped)
    assert stepped[0][0]["rank"] > 0


@pytest.mark.parametrize("draws", [True, False])
def test_negatives_are_drawn_at_first_and_mined_later(built, draws):
    """Before `random_for`, every other image of a pool is drawn equally often; then the hardest is mined."""
    _, params, inputs = built
    method = build(settings(mining__random_for="2 steps", mining__hardest=1), FACTS)
    pool = jax.tree.map(lambda x: x[None, :POOL], inputs)
    texts, images = method._embed(params, jax.tree.map(lambda x: x[0], pool))
    full = jax.tree.map(lambda x: x[None], (texts, images))
    step = jnp.int32(1 if draws else 2)
    find = jax.jit(lambda rng: method.miner.negatives(params, *full, pool["image_id"], rng, step))
    rows = np.array([find(jax.random.key(k)).rows[0, 0, 1, 0] for k in range(60)])
    mined = method.miner.hardest(params, texts, images, pool["image_id"][0]).rows[0, 1, 0]
    assert 1 not in rows
    assert sorted(set(rows)) == ([0, 2, 3] if draws else [mined])


def test_a_region_mlp_stands_before_the_projection(built):
    _, _, inputs = built
    method = build(settings(uniter__region_mlp=9, uniter__init_std=0.3), FACTS)
    params = jax.jit(method.init)(jax.random.key(0), inputs)
    assert params["img_linear"]["kernel"].shape == (9, 16)
    assert 0.2 < np.std(params["embeddings"]["words"]["embedding"]) < 0.4
    images = method.encode_image(params, inputs["image"])
    inner = np.asarray(inputs["image"]["regions"], np.float32)
    for k in range(2):
        layer = params[f"region_mlp_layer_{k}"]
        inner = np.asarray(jax.nn.gelu(inner @ layer["kernel"] + layer["bias"]))
    plain = build(settings(), FACTS)
    rest = {name: leaf for name, leaf in params.items() if "region_mlp" not in name}
    same = plain.encode_image(rest, inputs["image"] | {"regions": jnp.asarray(inner)})
    np.testing.assert_allclose(images.x, same.x, atol=1e-4)


def test_bfloat16_keeps_float32_parameters_scores_and_maps(built):
    method, params, inputs = built
    config = settings()
    config.dtype = "bfloat16"
    half = build(config, FACTS)
    start = jax.eval_shape(half.init, jax.random.key(0), inputs)
    assert {x.dtype for x in jax.tree.leaves(start)} == {jnp.dtype("float32")}
    maps = jax.jit(half.maps)(params, inputs)
    assert maps.own.dtype == jnp.float32
    np.testing.assert_allclose(jnp.sum(maps.own, axis=2)[maps.mask], 1, rtol=1e-5)
    encoded = lambda m: (m.encode_image(params, inputs["image"]), m.encode_text(params, inputs["text"]))
    scores, full = (jax.jit(lambda m=m: m.score(params, *encoded(m)))() for m in (half, method))
    assert scores.dtype == jnp.float32
    assert np.corrcoef(scores.ravel(), full.ravel())[0, 1] > 0.99
    _, aux = jax.jit(half.loss)(params, inputs, jax.random.key(0), jnp.int32(1))
    assert all(x.dtype == jnp.float32 and np.isfinite(x) for x in aux.terms.values())


def test_micro_batches_change_memory_alone(built):
    method, params, inputs = built
    config = settings()
    config.micro_batches = 3
    parted = build(config, FACTS)
    loss = lambda m: lambda p: m.loss(p, inputs, jax.random.key(0), jnp.int32(1))
    of = lambda m: jax.jit(jax.value_and_grad(loss(m), has_aux=True))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), of(method), of(parted))


def test_the_alignment_reaches_queries_and_keys_of_the_last_layer_alone(built):
    """Of the last layer it moves no value, output or MLP weights (docs/methods/iais.md)."""
    _, params, inputs = built
    config = settings()
    config.losses.rank.weight = 0.0
    method = build(config, FACTS)
    loss = lambda p: method.loss(p, inputs, jax.random.key(0), jnp.int32(1))[0]
    grads = jax.jit(jax.grad(loss))(params)
    last = flatten_dict(grads["layer_1"], sep="/")
    moved = {path for path, grad in last.items() if path.endswith("/kernel") and np.any(grad)}
    assert moved == {"attention/query/kernel", "attention/key/kernel"}
    assert np.any(grads["layer_0"]["attention"]["value"]["kernel"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mining__pool": 5}, "config.batch_size=32: not whole pools of config.mining.pool=5"),
        ({"mining__hardest": 4}, "config.mining.pool=4: too small for 3 anchors with 4 negatives each"),
        ({"uniter__heads": 3}, "config.uniter.heads=3: does not divide config.uniter.hidden=16"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(UserError, match=message):
        check(settings(**change))


def test_an_infinite_alignment_says_why(built):
    with pytest.raises(
        UserError, match=r"step 3: attention_alignment is inf \(an attention weight became exactly 0"
    ):
        check_finite({"loss": np.inf, "attention_alignment": np.inf}, 3, 0, built[0].reasons)
