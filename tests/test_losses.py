"""Each loss against a plain loop, and equal on one and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm import losses
from jax_itm.parallel import by_rows, make_mesh
from jax_itm.similarity import score_rows

B, D = 16, 8
IDS = jnp.arange(B).at[jnp.array([1, 5])].set(0)  # three captions of one image


def pairs(seed=0):
    v, t = np.random.default_rng(seed).normal(size=(2, B, D))
    t = 0.7 * v + t
    unit = lambda x: jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)
    return unit(v), unit(t)


def loop_triplet(v, t, margin, hardest):
    s, out = v @ t.T, 0.0
    for scores in (s, s.T):
        for i in range(B):
            hinges = [max(0, margin + scores[i, j] - scores[i, i]) for j in range(B) if IDS[j] != IDS[i]]
            out += max(hinges) if hardest else sum(hinges)
    return out


def loop_info_nce(v, t, scale):
    s, out = scale * v @ t.T, 0.0
    for scores in (s, s.T):
        for i in range(B):
            seen = [scores[i, j] for j in range(B) if j == i or IDS[j] != IDS[i]]
            out += np.log(np.sum(np.exp(seen))) - scores[i, i]
    return out / (2 * B)


def loop_sigmoid(v, t, scale, bias):
    s, out = scale * v @ t.T + bias, 0.0
    for i in range(B):
        for j in range(B):
            if j == i or IDS[j] != IDS[i]:
                out += np.log1p(np.exp(-s[i, j] if i == j else s[i, j]))
    return out / B


def distance_weighted(v, t):
    return losses.triplet_distance_weighted(v, t, IDS, 0.2, jax.random.key(3), cutoff=1.7)


CASES = {
    "sum": (
        lambda v, t: losses.triplet_sum(v, t, IDS, 0.2),
        lambda v, t: loop_triplet(v, t, 0.2, False),
    ),
    "hardest": (
        lambda v, t: losses.triplet_hardest(v, t, IDS, 0.2),
        lambda v, t: loop_triplet(v, t, 0.2, True),
    ),
    "info_nce": (
        lambda v, t: losses.info_nce(v, t, IDS, jnp.float32(10)),
        lambda v, t: loop_info_nce(v, t, 10),
    ),
    "sigmoid": (
        lambda v, t: losses.sigmoid(v, t, IDS, jnp.float32(10), jnp.float32(-4)),
        lambda v, t: loop_sigmoid(v, t, 10, -4),
    ),
    "distance_weighted": (distance_weighted, None),
    "gap": (losses.gap, None),
}


@pytest.mark.parametrize("name", [name for name, (_, loop) in CASES.items() if loop])
def test_value_and_gradient_are_those_of_the_loop(name):
    loss, loop = CASES[name]
    v, t = pairs()
    np.testing.assert_allclose(loss(v, t), loop(v, t), rtol=1e-5)
    grads = jax.grad(loss, argnums=(0, 1))(v, t)
    rng = np.random.default_rng(1)
    for side, grad in enumerate(grads):
        for _ in range(3):
            direction = rng.normal(size=(B, D))
            step = 1e-5

            def moved(sign, side=side, direction=direction, step=step):
                inputs = [np.asarray(v, np.float64), np.asarray(t, np.float64)]
                inputs[side] = inputs[side] + sign * step * direction
                return loop(*inputs)

            slope = (moved(1) - moved(-1)) / (2 * step)
            np.testing.assert_allclose(np.sum(grad * direction), slope, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", list(CASES))
def test_equal_on_one_and_eight_devices(name):
    loss = CASES[name][0]
    v, t = pairs()
    alone = jax.value_and_grad(loss, argnums=(0, 1))(v, t)
    mesh = make_mesh()
    assert mesh.size == 8
    with jax.set_mesh(mesh):
        sharded = jax.device_put((v, t), by_rows(mesh))
        spread = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*sharded)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), alone, spread)


def test_distance_weights_are_the_inverse_density():
    """On the sphere in q dimensions the pairwise distance has density D^(q-2) (1 - D^2/4)^((q-3)/2)."""
    q, scores = 16, np.array([-0.2, 0.0, 0.3, 0.8], np.float32)
    distance = np.sqrt(2 - 2 * scores)
    density = distance ** (q - 2) * (1 - distance**2 / 4) ** ((q - 3) / 2)
    log_w = losses.distance_log_weights(jnp.asarray(scores), 1.9, q)
    np.testing.assert_allclose(log_w, -np.log(density), rtol=1e-4)
    beyond = losses.distance_log_weights(jnp.asarray([-0.6, 0.99]), 1.7, q)
    assert beyond[0] == -np.inf
    assert beyond[1] == losses.distance_log_weights(jnp.asarray([0.9]), 1.7, q)[0]  # D >= 0.5


def test_gap_is_that_of_the_scores():
    v, t = pairs()
    scores = np.asarray(v @ t.T)
    np.testing.assert_allclose(losses.gap(v, t), np.diag(scores).mean() - scores.mean(), rtol=1e-4)


def test_drawn_negatives_follow_their_weights():
    v, t = pairs()
    rows, draws = score_rows(v, t, IDS), 2000
    log_w = losses.distance_log_weights(rows.scores, 1.9, 6)
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = np.asarray(jax.vmap(lambda key: losses.draw_negatives(rows, log_w, key))(keys))
    w = np.where(rows.negative, np.exp(log_w), 0)
    frequency = np.stack([np.mean(drawn == j, axis=0) for j in range(B)], axis=1)
    np.testing.assert_allclose(frequency, w / w.sum(axis=1, keepdims=True), atol=0.05)
    assert not frequency[0, [0, 1, 5]].any()  # never a caption of the same image


def test_distance_weighted_is_the_hinge_of_the_drawn():
    v, t = pairs()
    key, expected = jax.random.key(3), 0.0
    for direction, (a, c) in enumerate([(v, t), (t, v)]):
        rows = score_rows(a, c, IDS)
        log_w = losses.distance_log_weights(rows.scores, 1.7, 512)
        drawn = losses.draw_negatives(rows, log_w, jax.random.fold_in(key, direction))
        s = np.asarray(rows.scores)
        expected += sum(max(0, 0.2 + s[i, drawn[i]] - s[i, i]) for i in range(B))
    np.testing.assert_allclose(distance_weighted(v, t), expected, rtol=1e-5)
