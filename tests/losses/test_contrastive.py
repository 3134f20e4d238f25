"""Each loss against numpy, in every tile schedule, on any number of devices, within its memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_itm import losses
from jax_itm.distributed.mesh import batch_sharded, make_mesh
from jax_itm.losses import Plan, triplets
from jax_itm.losses.inputs import pairs as checked
from jax_itm.sharded.negatives import select_negatives

B, D = 16, 8
IDS = np.arange(B)
IDS[[1, 5]] = 0  # three captions of one image
DENSE = Plan("gather", 512)
SCHEDULES = [  # devices, how: 5, 3 and 2 do not divide a shard; 3 devices have 15 of the rows
    (1, DENSE),
    (1, Plan("ring", 5)),
    (2, Plan("ring", 3)),
    (3, Plan("ring", 2)),
    (3, Plan("gather", 4)),
    (8, Plan("ring", 512)),
    (8, Plan("gather", 3)),
]


def pairs(seed=0, b=B, d=D, alike=0.7):
    v, t = np.random.default_rng(seed).normal(size=(2, b, d))
    t = alike * v + t
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit(v), unit(t)


# Each reference takes scores and a mask of negatives, and gives the value and its slope by each score.


def np_info_nce(s, negative, scale):
    seen = negative | np.eye(len(s), dtype=bool)
    e = np.where(seen, np.exp(scale * (s - 1)), 0)
    rows, columns = e.sum(1, keepdims=True), e.sum(0, keepdims=True)
    value = np.sum(np.log(rows[:, 0]) + np.log(columns[0]) - 2 * scale * (np.diag(s) - 1)) / (2 * len(s))
    return value, scale * (e / rows + e / columns - 2 * np.eye(len(s))) / (2 * len(s))


def np_sigmoid(s, negative, scale, bias):
    sign = np.where(np.eye(len(s), dtype=bool), 1, -1)
    seen = negative | (sign > 0)
    z = sign * (scale * s + bias)
    value = np.sum(np.where(seen, np.log1p(np.exp(-z)), 0)) / len(s)
    return value, np.where(seen, -sign * scale / (1 + np.exp(z)), 0) / len(s)


def np_triplet(s, negative, margin, hardest):
    value, slope = 0.0, np.zeros_like(s)
    for scores, mask, out in ((s, negative, slope), (s.T, negative.T, slope.T)):
        for i in range(len(s)):
            of = np.where(mask[i], scores[i], -np.inf)
            for j in [int(np.argmax(of))] if hardest else range(len(s)):
                hinge = margin + of[j] - scores[i, i]
                if hinge > 0:
                    value, out[i, j], out[i, i] = value + hinge, out[i, j] + 1, out[i, i] - 1
    return value, slope


def np_knn(s, negative, margin, k):
    value, slope = 0.0, np.zeros_like(s)
    for scores, mask, out in ((s, negative, slope), (s.T, negative.T, slope.T)):
        for i in range(len(s)):
            candidates = np.flatnonzero(mask[i])
            nearest = candidates[np.argsort(-scores[i, candidates], kind="stable")][:k]
            for j in nearest:
                hinge = margin + scores[i, j] - scores[i, i]
                if hinge > 0:
                    value += hinge / len(nearest)
                    out[i, j] += 1 / len(nearest)
                    out[i, i] -= 1 / len(nearest)
    return value, slope


CASES = {
    "info_nce": (
        lambda v, t, **arrays: losses.info_nce(v, t, scale=14.3, **arrays),
        lambda s, n: np_info_nce(s, n, 14.3),
    ),
    "info_nce_100": (
        lambda v, t, **arrays: losses.info_nce(v, t, scale=100.0, **arrays),
        lambda s, n: np_info_nce(s, n, 100),
    ),
    "sigmoid": (
        lambda v, t, **arrays: losses.sigmoid(v, t, scale=10.0, bias=-4.0, **arrays),
        lambda s, n: np_sigmoid(s, n, 10, -4),
    ),
    "sum": (
        lambda v, t, **arrays: losses.triplet(v, t, negatives="sum", **arrays),
        lambda s, n: np_triplet(s, n, 0.2, False),
    ),
    "hardest": (
        lambda v, t, **arrays: losses.triplet(v, t, negatives="hardest", **arrays),
        lambda s, n: np_triplet(s, n, 0.2, True),
    ),
    "knn": (
        lambda v, t, **arrays: losses.triplet(v, t, negatives="knn", k=4, **arrays),
        lambda s, n: np_knn(s, n, 0.2, 4),
    ),
}


def distance_weighted(v, t, **arrays):
    key = jax.random.key(3)
    return losses.triplet(v, t, negatives="distance_weighted", key=key, sphere_dim=8, **arrays)


def of_rows(devices):
    """Pairs and image ids, as many as the devices divide."""
    count = B // devices * devices
    v, t = pairs()
    return v[:count], t[:count], IDS[:count]


def reference(loop, v, t, ids):
    value, slope = loop(v @ t.T, ids[:, None] != ids[None, :])
    return value, (slope @ t, slope.T @ v)


def traversed(loss, v, t, ids, devices, plan, dtype=np.float64):
    mesh = make_mesh(devices)
    with jax.set_mesh(mesh):
        rows = jax.device_put([jnp.asarray(x, dtype) for x in (v, t)], batch_sharded(mesh))
        value = lambda v, t: loss(v, t, image_ids=jnp.asarray(ids), plan=plan)
        return jax.device_get(jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(*rows))


def agree(actual, expected, rtol, atol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected)


@pytest.mark.parametrize(("devices", "plan"), SCHEDULES, ids=str)
@pytest.mark.parametrize("name", list(CASES))
def test_every_schedule_gives_the_reference_value_and_gradient(name, devices, plan):
    loss, loop = CASES[name]
    arrays = of_rows(devices)
    with jax.enable_x64(True):
        agree(traversed(loss, *arrays, devices, plan), reference(loop, *arrays), 1e-9, 1e-9)


@pytest.mark.parametrize("name", list(CASES))
def test_float32_is_close(name):
    loss, loop = CASES[name]
    value, grads = traversed(loss, *pairs(), IDS, 8, Plan("ring", 512), np.float32)
    expected, slopes = reference(loop, *pairs(), IDS)
    np.testing.assert_allclose(value, expected, rtol=2e-6, atol=1e-6)
    agree(grads, slopes, 2e-5, 2e-5)


@pytest.mark.parametrize(("devices", "plan"), SCHEDULES[1:], ids=str)
def test_a_draw_depends_neither_on_devices_nor_on_tiles(devices, plan):
    arrays = of_rows(devices)
    with jax.enable_x64(True):
        alone = traversed(distance_weighted, *arrays, 1, DENSE)
        agree(traversed(distance_weighted, *arrays, devices, plan), alone, 1e-9, 1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 9), st.integers(0, 9), st.sampled_from([*CASES]))
def test_any_shape_and_any_mask(b, d, tile, seed, name):
    """Small tiles, one row, and images without any negative; gradients are finite and right."""
    ids = np.random.default_rng(seed).integers(0, 4, b)
    loss, loop = CASES[name]
    with jax.enable_x64(True), np.errstate(invalid="ignore", divide="ignore"):
        v, t = pairs(seed, b, d)
        agree(traversed(loss, v, t, ids, 1, Plan("ring", tile)), reference(loop, v, t, ids), 1e-8, 1e-8)


def test_among_equal_scores_the_first_is_hardest():
    v = jnp.tile(jnp.array([[1.0, 0.0]]), (6, 1))
    for plan in (DENSE, Plan("ring", 2)):
        batch = checked(v, v, None, "data")
        row, column = select_negatives(batch.matrix(plan), None, v, v, batch.image_ids)
        np.testing.assert_array_equal(row.id, [1, 0, 0, 0, 0, 0])
        np.testing.assert_array_equal(column.id, [1, 0, 0, 0, 0, 0])


def test_an_anchor_without_negatives_has_no_gradient():
    v, t = map(jnp.asarray, pairs())
    for loss, _ in CASES.values():
        of = jax.value_and_grad(lambda v, loss=loss: loss(v, t, image_ids=jnp.zeros(B, int), plan=DENSE))
        value, grad = jax.jit(of)(v)
        assert np.isfinite(value) and np.all(np.isfinite(grad))
    assert losses.triplet(v, t, image_ids=jnp.zeros(B, int)) == 0


def test_the_temperature_and_bias_get_their_gradients():
    with jax.enable_x64(True):
        v, t = map(jnp.asarray, pairs())
        arrays = {"image_ids": jnp.asarray(IDS), "plan": Plan("ring", 3)}
        for loss in (
            lambda x: losses.info_nce(v, t, scale=x[0], **arrays),
            lambda x: losses.sigmoid(v, t, scale=x[0], bias=x[1], **arrays),
        ):
            loss, at, step = jax.jit(loss), jnp.array([10.0, -4.0]), 1e-5
            slope = [(loss(at + step * e) - loss(at - step * e)) / (2 * step) for e in jnp.eye(2)]
            np.testing.assert_allclose(jax.grad(loss)(at), slope, rtol=1e-7, atol=1e-9)


def test_distance_weights_are_the_inverse_density():
    """On the sphere in q dimensions the pairwise distance has density D^(q-2) (1 - D^2/4)^((q-3)/2)."""
    q, scores = 16, np.array([-0.2, 0.0, 0.3, 0.8], np.float32)
    distance = np.sqrt(2 - 2 * scores)
    density = distance ** (q - 2) * (1 - distance**2 / 4) ** ((q - 3) / 2)
    log_w = triplets.distance_log_weights(jnp.asarray(scores), 1.9, q)
    np.testing.assert_allclose(log_w, -np.log(density), rtol=1e-4)
    beyond = triplets.distance_log_weights(jnp.asarray([-0.6, 0.99]), 1.7, q)
    assert beyond[0] == -np.inf
    assert beyond[1] == triplets.distance_log_weights(jnp.asarray([0.9]), 1.7, q)[0]  # D >= 0.5


def test_gap_is_that_of_the_scores():
    v, t = pairs()
    scores = v @ t.T
    actual = losses.score_gap(jnp.asarray(v, jnp.float32), jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(actual, np.diag(scores).mean() - scores.mean(), rtol=1e-4)


def test_drawn_negatives_follow_their_weights():
    v, t = (jnp.asarray(x, jnp.float32) for x in pairs())
    log_w = lambda s: triplets.distance_log_weights(s, 1.9, 6)
    priority = lambda tile, axis, key: log_w(tile.scores[0]) + triplets.pair_gumbel(tile, axis, key)
    batch = checked(v, t, IDS, "data")
    arrays = batch.matrix(DENSE), priority, v, t, batch.image_ids
    many = jax.random.key_data(jax.random.split(jax.random.key(0), 2000))
    draws = jax.jit(jax.vmap(lambda key: [x.id for x in select_negatives(*arrays, key)]))(many)
    negative = IDS[:, None] != IDS[None, :]
    for sampled, scores in zip(draws, (v @ t.T, t @ v.T), strict=True):
        w = np.where(negative, np.exp(log_w(scores)), 0)
        frequency = np.stack([np.mean(np.asarray(sampled) == j, axis=0) for j in range(B)], axis=1)
        np.testing.assert_allclose(frequency, w / w.sum(axis=1, keepdims=True), atol=0.05)
        assert not frequency[0, [0, 1, 5]].any()  # never a caption of the same image


def compiled(name, batch, devices, d=64, tile=32):
    mesh = make_mesh(devices)
    rows = batch_sharded(mesh)
    with jax.set_mesh(mesh):
        x = jax.ShapeDtypeStruct((batch, d), jnp.float32, sharding=rows)
        ids = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=rows)
        loss = lambda v, t, ids: CASES[name][0](v, t, image_ids=ids, plan=Plan("ring", tile))
        of = jax.value_and_grad(loss, argnums=(0, 1))
        return jax.jit(of, out_shardings=(None, (rows, rows))).lower(x, x, ids).compile()


@pytest.mark.parametrize("name", ["info_nce", "sigmoid", "sum", "hardest", "knn"])
def test_memory_is_a_few_shards_whatever_the_batch(name):
    """Read from the compiled program: temporary bytes, and that no array is larger than a tile or shard."""
    d, tile = 64, 32
    held = {}
    for devices, batch in ((4, 1024), (8, 2048)):
        program, rows = compiled(name, batch, devices), batch // devices
        held[devices] = program.memory_analysis().temp_size_in_bytes
        assert held[devices] <= 4 * (4.5 * rows * d + rows * tile)
        text = program.as_text()
        shapes = [
            [int(n) for n in dims.split(",")] for dims in re.findall(r"(?:f32|pred|s32)\[([\d,]+)\]", text)
        ]
        assert max(int(np.prod(shape)) for shape in shapes) <= max(rows * d, tile * tile)
    assert held[8] <= held[4] * 1.05


@pytest.mark.parametrize("cutoff", [1.7, 1.414])
@pytest.mark.parametrize(("devices", "plan"), SCHEDULES[:3], ids=str)
def test_the_share_of_draws_below_the_mean_negative(devices, plan, cutoff):
    """Recomputed from the drawn rows; of scores around 0, cutoff 1.414 takes the near half alone."""
    v, t = pairs(1, 64, 32, alike=0)
    scores = v @ t.T
    v, t = jnp.asarray(v, jnp.float32), jnp.asarray(t, jnp.float32)
    key = jax.random.key(5)
    options = {"negatives": "distance_weighted", "key": key, "cutoff": cutoff, "plan": plan}

    def priority(tile, axis, data):
        log_w = triplets.distance_log_weights(tile.scores[0], cutoff, 512)
        return log_w + triplets.pair_gumbel(tile, axis, data)

    def sampled(v, t):
        batch = checked(v, t, None, "data")
        arrays = batch.matrix(plan), priority, v, t, batch.image_ids, jax.random.key_data(key)
        return [side.id for side in select_negatives(*arrays)]

    with jax.set_mesh(make_mesh(devices)):
        share = jax.jit(lambda v, t: losses.triplet_terms(v, t, **options)["below_mean"])
        rows, columns = jax.device_get(jax.jit(sampled)(v, t))
        below = [scores[i, j] < np.delete(scores[i], i).mean() for i, j in enumerate(rows)]
        below += [scores[i, j] < np.delete(scores[:, j], j).mean() for j, i in enumerate(columns)]
        np.testing.assert_allclose(share(v, t), np.mean(below), atol=1e-6)
        np.testing.assert_array_equal(jax.grad(share)(v, t), 0)
    assert np.mean(below) < 0.05 if cutoff < 1.5 else 0.2 < np.mean(below) < 0.7
