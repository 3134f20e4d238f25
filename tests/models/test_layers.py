"""Pooling and recurrence against plain loops."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_itm.arrays import NEG_INF, mean_pool
from jax_itm.models import Gpo, Gru, HremPooling, RegionEncoder, TransformerLayer, max_pool
from jax_itm.models.layers import gelu, token_product
from jax_itm.models.packed_gru import Weights, pack, packed_gru
from jax_itm.models.pooling import (
    descending_rank,
    pool_by_rank,
    pool_item_by_item,
    pool_sorted,
    sinusoidal,
    top_mean,
)
from jax_itm.models.recurrent import Direction, run_cells

B, N, D = 4, 6, 5
X = jax.random.normal(jax.random.key(0), (B, N, D))
COUNTS = np.array([6, 1, 4, 2])
MASK = jnp.asarray(np.arange(N) < COUNTS[:, None])[:, ::-1]  # true tokens need not come first


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop_gru(p, x, mask, reverse):
    """One sequence: r, z, n gates as cuDNN has them."""
    size = p["recurrent"].shape[0]
    p = jax.tree.map(lambda leaf: np.asarray(leaf, float), p)
    state, out = np.zeros(size), np.zeros((len(x), size))
    for n in reversed(range(len(x))) if reverse else range(len(x)):
        if mask[n]:
            gate = x[n] @ p["input"]["kernel"] + p["input"]["bias"]
            own = state @ p["recurrent"] + p["recurrent_bias"]
            r, z = sigmoid(gate[:size] + own[:size]), sigmoid(gate[size : 2 * size] + own[size : 2 * size])
            new = np.tanh(gate[2 * size :] + r * own[2 * size :])
            state = (1 - z) * new + z * state
        out[n] = state
    return out


@pytest.mark.parametrize("reverse", [False, True])
def test_gru_is_that_of_the_loop(reverse):
    gru = Gru(3, reverse=reverse)
    params = gru.init(jax.random.key(1), X, MASK)["params"]
    params = params | {"recurrent_bias": jnp.arange(9.0) / 9}
    actual = gru.apply({"params": params}, X, MASK)
    for b in range(B):
        expected = loop_gru(params, np.asarray(X[b]), MASK[b], reverse)
        np.testing.assert_allclose(actual[b], expected, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("rows, steps", [(1, 1), (4, 6), (37, 9)])
def test_a_packed_gru_is_the_scanned_one(rows, steps, reverse):
    keys = iter(jax.random.split(jax.random.key(2), 9))
    x = jax.random.normal(next(keys), (rows, steps, 5))
    cotangent = jax.random.normal(next(keys), (rows, steps, 3))
    mask = jax.random.bernoulli(next(keys), 0.6, (rows, steps)).at[1:2].set(False)  # one without a word
    weights = Weights(*(jax.random.normal(next(keys), shape) for shape in ((5, 9), (9,), (3, 9), (9,))))

    def scanned(x, weights):
        return run_cells([Direction(weights, reverse).cell(x)], mask)[0]

    def packed(x, weights):
        return packed_gru(x, weights, pack(mask, reverse))

    (expected, backward), (actual, packed_backward) = (jax.vjp(run, x, weights) for run in (scanned, packed))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (packed_backward(cotangent), backward(cotangent))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_mean_and_max_see_true_tokens_alone():
    for b in range(B):
        seen = np.asarray(X[b])[np.asarray(MASK[b])]
        np.testing.assert_allclose(mean_pool(X, MASK)[b], seen.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(max_pool(X, MASK)[b], seen.max(axis=0), rtol=1e-5)


def stirred_gpo():
    """Parameters of a GPO that has learnt something."""
    params = Gpo().init(jax.random.key(1), X, MASK)["params"]
    kernel = jax.random.normal(jax.random.key(2), params["score"]["kernel"].shape)
    return {**params, "score": {"kernel": 0.2 * kernel}}


def test_gpo_starts_with_the_largest_values():
    params = Gpo().init(jax.random.key(1), X, MASK)["params"]
    actual = Gpo().apply({"params": params}, X, MASK)
    for b, count in enumerate(COUNTS):
        weights = np.exp(-0.3 * np.arange(count))
        ordered = -np.sort(-np.asarray(X[b])[np.asarray(MASK[b])], axis=0)
        np.testing.assert_allclose(actual[b], weights / weights.sum() @ ordered, rtol=1e-4, atol=1e-5)


def test_gpo_weighs_each_dimensions_sorted_features():
    gpo = Gpo()
    params = stirred_gpo()
    actual = gpo.apply({"params": params}, X, MASK)
    forward, backward = params["gru"]["forward"], params["gru"]["backward"]
    for b, count in enumerate(COUNTS):
        codes, real = np.asarray(sinusoidal(N, 32)), np.arange(N) < count
        hidden = (loop_gru(forward, codes, real, False) + loop_gru(backward, codes, real, True)) / 2
        logits = (hidden @ np.asarray(params["score"]["kernel"]))[:count, 0] / 0.1 - 0.3 * np.arange(count)
        weights = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        seen = np.asarray(X[b])[np.asarray(MASK[b])]
        expected = weights @ -np.sort(-seen, axis=0)
        np.testing.assert_allclose(actual[b], expected, rtol=1e-4, atol=1e-5)


def test_gpo_does_not_care_for_order_or_padding():
    gpo = Gpo()
    params = {"params": stirred_gpo()}
    actual = gpo.apply(params, X, MASK)
    order = np.random.default_rng(0).permutation(N)
    np.testing.assert_allclose(gpo.apply(params, X[:, order], MASK[:, order]), actual, rtol=1e-5)
    np.testing.assert_allclose(
        gpo.apply(params, jnp.where(MASK[..., None], X, 99.0), MASK), actual, rtol=1e-5
    )
    grads = jax.grad(lambda x: jnp.sum(gpo.apply(params, x, MASK) ** 2))(X)
    assert np.all(np.isfinite(grads)) and not np.any(grads[~np.asarray(MASK)])


def test_descending_rank_is_that_of_a_stable_sort():
    x = np.random.default_rng(0).integers(0, 3, (B, N, D)).astype(np.float32)  # many of them equal
    order = np.argsort(-x, axis=1, kind="stable")
    np.testing.assert_array_equal(descending_rank(jnp.asarray(x)), np.argsort(order, axis=1))


def test_feature_dropout_takes_the_same_features_from_all_tokens_of_an_item():
    encoder = RegionEncoder(16, pooling="mean", drop=0.0, feature_dropout=0.5)
    ones = {"regions": jnp.ones((B, N, 64)), "mask": MASK}
    params = encoder.init(jax.random.key(1), ones)
    rngs = {"dropout": jax.random.key(2)}
    tokens = np.asarray(encoder.apply(params, ones, train=True, rngs=rngs).tokens)
    np.testing.assert_allclose(tokens, np.repeat(tokens[:, :1], N, axis=1), rtol=1e-6)
    assert np.ptp(tokens[:, 0], axis=0).min() > 0  # each item loses others
    still = encoder.apply(params, ones, train=False).tokens
    plain = RegionEncoder(16, pooling="mean", drop=0.0).apply(params, ones, train=True, rngs=rngs).tokens
    np.testing.assert_array_equal(still, plain)


@pytest.mark.parametrize("post_norm", [False, True])
def test_masked_positions_are_invisible_to_attention(post_norm):
    layer = TransformerLayer(2, 8, post_norm=post_norm)
    x = jax.random.normal(jax.random.key(0), (B, N, 4))
    params = layer.init(jax.random.key(1), x, MASK, False)
    one = layer.apply(params, x, MASK, False)
    two = layer.apply(params, jnp.where(MASK[..., None], x, 7.0), MASK, False)
    np.testing.assert_allclose(one[MASK], two[MASK], rtol=1e-5, atol=1e-6)


def test_gelu_is_flaxs_to_rounding():
    x = jnp.linspace(-8, 8, 1001)
    exact = lambda x: nn.gelu(x, approximate=False)
    np.testing.assert_allclose(gelu(x), exact(x), atol=1e-6)
    slope = lambda f: jax.vmap(jax.grad(f))(x)
    np.testing.assert_allclose(slope(gelu), slope(exact), atol=1e-6)


def test_a_layers_product_is_that_of_dot_general():
    x = jax.random.normal(jax.random.key(4), (B, N, 3, 2))
    kernel = jax.random.normal(jax.random.key(5), (3, 2, 4, 5))
    dimensions = (((2, 3), (0, 1)), ((), ()))
    expected, backward = jax.vjp(lambda x, kernel: lax.dot_general(x, kernel, dimensions), x, kernel)
    actual, flat_backward = jax.vjp(lambda x, kernel: token_product(x, kernel, dimensions), x, kernel)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(flat_backward(expected), backward(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_mean_of_the_largest_is_that_of_the_loop():
    for k in (1, 2, 4):
        for b, count in enumerate(COUNTS):
            values = np.sort(np.asarray(X[b])[np.asarray(MASK[b])], axis=0)[::-1]
            expected = values[: min(k, count)].mean(axis=0)
            np.testing.assert_allclose(top_mean(X, MASK, k)[b], expected, rtol=1e-5)


def loop_hrem_layer(params, x, heads):
    """One post-norm layer on the true tokens of one item."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)

    def norm(name, x):
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return x * params[name]["scale"] + params[name]["bias"]

    attention = params["attention"]
    mixed = []
    for h in range(heads):
        q, k, v = (
            x @ attention[name]["kernel"][:, h] + attention[name]["bias"][h]
            for name in ("query", "key", "value")
        )
        weights = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        mixed.append(weights / weights.sum(1, keepdims=True) @ v)
    out = sum(part @ attention["out"]["kernel"][h] for h, part in enumerate(mixed))
    x = norm("norm_attention", x + out + attention["out"]["bias"])
    hidden = np.maximum(x @ params["mlp"]["hidden"]["kernel"] + params["mlp"]["hidden"]["bias"], 0)
    return norm("norm_mlp", x + hidden @ params["mlp"]["out"]["kernel"] + params["mlp"]["out"]["bias"])


def test_hrem_pools_the_two_largest_values_and_related_tokens():
    x = jax.random.normal(jax.random.key(3), (B, N, 8))
    pooling = HremPooling(heads=2)
    params = pooling.init(jax.random.key(1), x, MASK)["params"]
    pooled = pooling.apply({"params": params}, x, MASK)
    for b, count in enumerate(COUNTS):
        tokens = np.asarray(x[b], float)[np.asarray(MASK[b])]
        largest = np.sort(tokens, axis=0)[::-1][: min(2, count)].mean(axis=0)
        related = loop_hrem_layer(params["layer"], tokens, 2).mean(axis=0)
        np.testing.assert_allclose(pooled[b], 0.8 * largest + 0.2 * related, rtol=1e-4, atol=1e-5)
    dropped = pooling.apply({"params": params}, x, MASK, True, rngs={"dropout": jax.random.key(0)})
    assert not np.allclose(dropped, pooled)


def test_a_post_norm_layers_queries_and_keys_are_float32_and_its_own():
    x = jax.random.normal(jax.random.key(0), (B, N, 4))
    layer = TransformerLayer(2, 8, post_norm=True, dtype=jnp.dtype("bfloat16"))
    variables = layer.init(jax.random.key(1), x, MASK, False)
    query, key = layer.apply(variables, x, method="queries_and_keys")
    attention = variables["params"]["attention"]
    for actual, part in ((query, attention["query"]), (key, attention["key"])):
        expected = np.asarray(x) @ np.asarray(part["kernel"]).reshape(4, 4) + np.asarray(part["bias"]).ravel()
        assert actual.dtype == jnp.float32
        np.testing.assert_allclose(actual.reshape(B, N, 4), expected, rtol=1e-5, atol=1e-6)


def test_dropout_of_attention_weights_differs_between_items():
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (1, N, 4)), (B, N, 4))
    layer = TransformerLayer(2, 8, post_norm=True, attention_dropout=0.5)
    mask = jnp.ones((B, N), bool)
    params = layer.init(jax.random.key(1), x, mask, False)
    out = layer.apply(params, x, mask, True, rngs={"dropout": jax.random.key(2)})
    assert not np.allclose(out[0], out[1])


@pytest.mark.parametrize("seed", range(3))
def test_pooling_by_sorting_or_item_by_item_is_pooling_by_counting(seed):
    """Values with ties, masked tokens, and weights of which some are 0: value and both gradients."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.integers(-3, 4, (4, 6, 5)), jnp.float32) / 3
    count = jnp.asarray([6, 3, 1, 5])
    mask = jnp.arange(6) < count[:, None]
    weights = jnp.where(mask, jnp.asarray(rng.random((4, 6)), jnp.float32), 0)
    cotangent = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)
    masked = lambda x: jnp.where(mask[..., None], x, NEG_INF)
    counted = lambda x, weights: jnp.sum(pool_by_rank(x, mask, weights) * cotangent)
    by_sorting = lambda x, weights: jnp.sum(pool_sorted(masked(x), weights) * cotangent)
    by_item = lambda x, weights: jnp.sum(pool_item_by_item(masked(x), weights, count) * cotangent)
    expected = jax.value_and_grad(counted, (0, 1))(x, weights)
    for form in (by_sorting, by_item):
        actual = jax.value_and_grad(form, (0, 1))(x, weights)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), actual, expected)
