"""Distribution sampling against the paper's loops, and what must hold of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm import losses
from jax_itm.distributed.mesh import make_mesh
from jax_itm.losses import Sampling
from jax_itm.losses.columns import ColumnSelection, Moments, column_moments, relatedness, select_columns
from jax_itm.losses.rank_map import sample_both
from jax_itm.losses.sampling import contrast
from tests.helpers.compiling import optimised

B, R, W, D = 8, 5, 7, 6


@pytest.fixture(autouse=True)
def exact():
    with optimised(), jax.enable_x64(True):
        yield


def tokens(seed=0):
    """Values and masks of both sides; row 0 has one patch, row 1 one word."""
    rng = np.random.default_rng(seed)
    v, t = rng.normal(size=(B, R, D)), rng.normal(0.3, 2, size=(B, W, D))
    v_mask, t_mask = (
        np.arange(R) < rng.integers(2, R + 1, (B, 1)),
        np.arange(W) < rng.integers(2, W + 1, (B, 1)),
    )
    v_mask[0], t_mask[1] = np.arange(R) < 1, np.arange(W) < 1
    return tuple(map(jnp.asarray, (v, v_mask, t, t_mask)))


def row_stochastic(seed=1):
    s = np.random.default_rng(seed).random((D, D))
    return s / s.sum(1, keepdims=True)


def selected(weights):
    return ColumnSelection(jnp.asarray(weights), jnp.ones((D, D), bool), jnp.zeros(D, bool))


def naive_sample(v, v_mask, t, t_mask, s):
    """Equation (10), value by value: sum_j s_ij M(C^t_j | C^v_i) at each patch's exceedance probability."""
    out = np.zeros_like(v)
    for b in range(len(v)):
        r, w = v_mask[b].sum(), t_mask[b].sum()
        for i in range(D):
            own = v[b, v_mask[b], i]
            for n in range(r):
                share = (np.sum(own < own[n]) + 0.5) / r
                for j in range(D):
                    column = np.sort(t[b, t_mask[b], j])
                    at = (np.arange(w) + 0.5) / w
                    out[b, np.flatnonzero(v_mask[b])[n], i] += s[i, j] * np.interp(share, at, column)
    return out


def test_sampling_is_the_double_loop_of_the_paper():
    v, v_mask, t, t_mask = tokens()
    s_v, s_t = row_stochastic(1), row_stochastic(2)
    v_x, t_x = sample_both(v, v_mask, t, t_mask, (selected(s_v), selected(s_t)))
    inputs = [np.asarray(x) for x in (v, v_mask, t, t_mask)]
    expected = naive_sample(*inputs, s_v), naive_sample(*inputs[2:], *inputs[:2], s_t)
    for actual, wanted, mask in zip((v_x, t_x), expected, (v_mask, t_mask), strict=True):
        np.testing.assert_allclose(actual[mask], wanted[mask], rtol=1e-10, atol=1e-12)


def test_gradients_of_sampling_are_those_of_the_double_loop():
    v, v_mask, t, t_mask = tokens()
    s, other = row_stochastic(1), selected(row_stochastic(2))
    weight = np.random.default_rng(5).normal(size=v.shape) * np.asarray(v_mask)[..., None]

    def total(v, t, s):
        return jnp.sum(sample_both(v, v_mask, t, t_mask, (selected(s), other))[0] * weight)

    dv, dt, ds = jax.grad(total, argnums=(0, 1, 2))(v, t, jnp.asarray(s))
    assert not np.any(dv)  # ranks carry none
    rng, inputs = np.random.default_rng(6), [np.asarray(x) for x in (v, v_mask, t, t_mask)]
    loop = lambda t, s: np.sum(naive_sample(*inputs[:2], t, inputs[3], s) * weight)
    for _ in range(5):
        step = rng.normal(size=t.shape) * 1e-6, rng.normal(size=s.shape) * 1e-6
        change = loop(inputs[2] + step[0], s + step[1]) - loop(inputs[2] - step[0], s - step[1])
        np.testing.assert_allclose(np.sum(dt * step[0]) + np.sum(ds * step[1]), change / 2, rtol=1e-4)


def test_through_the_identity_ranks_stay_and_values_are_the_texts():
    v, v_mask, t, t_mask = tokens()
    identity = selected(np.eye(D))
    v_x, _ = sample_both(v, v_mask, t, t_mask, (identity, identity))
    moved, _ = sample_both(v, v_mask, t.at[:, :, 2].add(3.0), t_mask, (identity, identity))
    np.testing.assert_allclose(
        (moved - v_x)[v_mask], np.tile(np.eye(D)[2] * 3.0, (int(v_mask.sum()), 1)), atol=1e-12
    )
    for b in range(B):
        a, x, words = v[b][v_mask[b]], v_x[b][v_mask[b]], t[b][t_mask[b]]
        if len(words) > 1:  # from one word all values are equal
            np.testing.assert_array_equal(np.argsort(a, axis=0), np.argsort(x, axis=0, kind="stable"))
        assert np.all(x >= words.min(0) - 1e-12)
        assert np.all(x <= words.max(0) + 1e-12)


def test_padding_and_batch_mates_change_nothing():
    v, v_mask, t, t_mask = tokens()
    both = selected(row_stochastic(1)), selected(row_stochastic(2))
    v_x, t_x = sample_both(v, v_mask, t, t_mask, both)
    dirty = jnp.where(v_mask[..., None], v, 9.0), v_mask, jnp.where(t_mask[..., None], t, -9.0), t_mask
    alone = sample_both(*(x[3:4] for x in dirty), both)
    np.testing.assert_allclose(alone[0][0][v_mask[3]], v_x[3][v_mask[3]], atol=1e-12)
    np.testing.assert_allclose(alone[1][0][t_mask[3]], t_x[3][t_mask[3]], atol=1e-12)


def test_columns_are_gaussians_and_s_their_divergence():
    v, v_mask, t, t_mask = tokens()
    actual = [column_moments(v, v_mask), column_moments(t, t_mask)]
    for moments, x, mask in zip(actual, (v, t), (v_mask, t_mask), strict=True):
        real = np.asarray(x)[np.asarray(mask)]
        np.testing.assert_allclose(moments.mean, real.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.variance, real.var(0), rtol=1e-12)
    s = jnp.exp(relatedness(*actual))
    (m1, v1), (m2, v2) = [(np.asarray(m.mean), np.asarray(m.variance) + 1e-6) for m in actual]
    for i in range(D):
        for j in range(D):
            kl = np.log(np.sqrt(v2[j] / v1[i])) + (v1[i] + (m1[i] - m2[j]) ** 2) / (2 * v2[j]) - 0.5
            np.testing.assert_allclose(s[i, j], np.exp(-kl), rtol=1e-10)
    same = relatedness(actual[0], actual[0])
    np.testing.assert_allclose(np.diagonal(same), 0, atol=1e-12)


@pytest.mark.parametrize(("on", "identity"), [("p", 0.0), ("s", 0.0), ("p", 0.5)])
def test_selection_is_the_loop_of_equations_6_to_9(on, identity):
    s, alpha = np.random.default_rng(3).random((D, D)), 0.7
    actual = select_columns(jnp.log(s), jnp.asarray(alpha), on, identity)
    for i in range(D):
        p = 1 / (1 + np.exp(-s[i]))
        k = p.mean() + alpha * p.std()
        b = (p if on == "p" else s[i]) > k
        assert bool(actual.empty[i]) == (not b.any())
        np.testing.assert_array_equal(actual.kept[i], b)
        b = b if b.any() else np.arange(D) == s[i].argmax()
        row = b * s[i] / np.sum(b * s[i])
        np.testing.assert_allclose(
            actual.weights[i], identity * np.eye(D)[i] + (1 - identity) * row, rtol=1e-6
        )
    np.testing.assert_allclose(jnp.sum(actual.weights, axis=1), 1, rtol=1e-12)
    slope = jax.grad(lambda a: jnp.sum(select_columns(jnp.log(s), a, "p", identity).weights * s))(
        jnp.asarray(alpha)
    )
    assert slope != 0  # the soft mask behind the hard one


def test_columns_of_other_scales_still_make_rows_that_sum_to_1():
    far = Moments(jnp.full((D,), 50.0), jnp.linspace(1, 2, D)), Moments(jnp.zeros(D), jnp.full((D,), 1e-3))
    actual = select_columns(relatedness(*far), jnp.asarray(1.0), "p", 0.0)
    np.testing.assert_allclose(jnp.sum(actual.weights, axis=1), 1, rtol=1e-12)


def naive_contrast(x, s, mask, image_id, level, temperature):
    """InfoNCE, anchor by anchor; rivals are the own one and those of other images, or of the same."""
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    if level == "pooled_batch":
        mean = lambda x: np.stack([row[m].mean(0) for row, m in zip(x, mask, strict=True)])
        x, s, row = unit(mean(x)), unit(mean(s)), np.arange(len(x))
    else:
        x, s, row = unit(x[mask]), unit(s[mask]), np.nonzero(mask)[0]
    losses = []
    for a, b in ((x, s), (s, x)):
        for n in range(len(a)):
            same_row, same_image = row == row[n], image_id[row] == image_id[row[n]]
            rivals = same_row if level == "patch_image" else ~same_image | (np.arange(len(b)) == n)
            scores = b[rivals] @ a[n] / temperature
            losses.append(np.log(np.sum(np.exp(scores))) - a[n] @ b[n] / temperature)
    return np.mean(losses)


@pytest.mark.parametrize("level", ["pooled_batch", "patch_batch", "patch_image"])
def test_contrast_is_its_loop(level):
    v, mask, _, _ = tokens()
    s = jnp.asarray(np.random.default_rng(4).normal(size=v.shape))
    image_id = jnp.asarray([0, 0, 1, 2, 3, 4, 4, 5])
    options = Sampling(level=level, temperature=0.5)
    actual = contrast(v, s, mask, image_id, options=options)
    inputs = [np.asarray(x) for x in (v, s, mask, image_id)]
    np.testing.assert_allclose(actual, naive_contrast(*inputs, level, 0.5), rtol=1e-9)
    slope = jax.grad(lambda v: contrast(v, s, mask, image_id, options=options))(v)
    step = np.random.default_rng(7).normal(size=v.shape) * 1e-6
    loop = lambda v: naive_contrast(v, *inputs[1:], level, 0.5)
    change = (loop(inputs[0] + step) - loop(inputs[0] - step)) / 2
    np.testing.assert_allclose(np.sum(slope * step), change, rtol=1e-4)


FIELDS = [
    {},
    {"schedule": "random_features", "threshold_on": "s", "identity": 0.0},
    {"schedule": "precomputed", "level": "patch_image"},
    {"scope": "batch", "level": "patch_batch"},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_equal_on_one_and_eight_devices_values_and_gradients(fields):
    v, v_mask, t, t_mask = tokens()
    inputs = {"options": Sampling(**fields), "image_ids": jnp.asarray([0, 0, 1, 2, 3, 4, 4, 5])}

    def loss(v, t, alpha):
        more = {"thresholds": alpha, "key": jax.random.key(0), "origin": (2 * v, t + 1)}
        actual = losses.sample_distributions(v, v_mask, t, t_mask, **more, **inputs)
        return actual.terms["sampling"] + jnp.mean(actual.image**2), actual.terms

    results = []
    for devices in (1, 8):
        with jax.set_mesh(make_mesh(devices)):
            step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
            results.append(jax.device_get(step(v, t, jnp.full((2,), 0.5))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), *results)
    assert np.all(results[0][1][2] != 0)


def test_sorts_at_most_twice_a_modality():
    v, v_mask, t, t_mask = tokens()
    both = selected(row_stochastic(1)), selected(row_stochastic(2))
    text = str(jax.make_jaxpr(lambda v, t: sample_both(v, v_mask, t, t_mask, both))(v, t))
    assert text.count("= sort[") == 4


def test_moments_of_a_batch_are_those_of_all_devices():
    v, mask, _, _ = tokens()
    with jax.set_mesh(make_mesh(8)):
        spread = jax.jit(column_moments)(v, mask)
    assert isinstance(spread, Moments)
    real = np.asarray(v)[np.asarray(mask)]
    np.testing.assert_allclose(spread.variance, real.var(0), rtol=1e-10)
