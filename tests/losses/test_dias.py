"""DIAS's terms against plain loops, and what must hold of them (spec section 6)."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm import losses
from jax_itm.arrays import l2_normalise
from jax_itm.distributed.mesh import batch_sharded, make_mesh
from jax_itm.losses import Plan

B, D = 16, 8
IDS = jnp.arange(B).at[4].set(0)
ALPHA = jnp.ones(2)
RING = Plan("ring", 5)


def pairs(seed=0, b=B, d=D, noise=1.0):
    a, e = jax.random.normal(jax.random.key(seed), (2, b, d))
    return l2_normalise(a), l2_normalise(a + noise * e)


def dim(v, t, form="ratio", phi="relu"):
    return losses.dimension_alignment(v, t, form=form, phi=phi, reduce="sum")


@partial(jax.jit, static_argnames=("select_on", "soft", "plan"))
def spatial(v, t, ids=IDS, alpha=ALPHA, select_on="proximity", soft=False, plan=RING):
    mask = "soft" if soft else "hard"
    inputs = {"image_ids": ids, "alpha": alpha, "select_on": select_on, "mask": mask, "plan": plan}
    return losses.spatial_terms(v, t, **inputs)


def loop_dim(v, t, form, phi):
    v, t = ((x - x.mean(0)) / x.std(0) for x in (np.asarray(v, float), np.asarray(t, float)))
    phi = {
        "relu": lambda c: max(c, 0),
        "abs": abs,
        "square": lambda c: c * c,
        "exp": lambda c: np.exp(c / 0.1),
    }[phi]
    out = 0.0
    for k in range(D):
        c = lambda p, q: np.mean(v[:, p] * t[:, q])
        row = phi(c(k, k)) / (sum(phi(c(k, q)) for q in range(D)) + 1e-6)
        column = phi(c(k, k)) / (sum(phi(c(q, k)) for q in range(D)) + 1e-6)
        out += {
            "ratio": -(row + column),
            "infonce": -np.log(row + 1e-6) - np.log(column + 1e-6),
            "barlow": (1 - c(k, k)) ** 2 + 5e-3 * sum(c(k, q) ** 2 for q in range(D) if q != k),
            "diagonal": -c(k, k),
        }[form]
    return out


@pytest.mark.parametrize(
    ("form", "phi"),
    [
        ("ratio", "relu"),
        ("ratio", "abs"),
        ("ratio", "square"),
        ("infonce", "exp"),
        ("barlow", "relu"),
        ("diagonal", "relu"),
    ],
)
def test_dimension_loss_is_that_of_the_loop(form, phi):
    v, t = pairs()
    np.testing.assert_allclose(dim(v, t, form, phi), loop_dim(v, t, form, phi), rtol=2e-4)


def loop_spatial(v, t, alpha, select_on):
    v, t, ids = np.asarray(v, float), np.asarray(t, float), np.asarray(IDS)
    x, y, z = 1 - v @ t.T, 1 - v @ v.T, 1 - t @ t.T
    out = []
    for difference, distance in ((np.abs(x - x.T), x), (np.abs(y - z), (y + z) / 2)):
        argument = {"proximity": -distance, "distance": distance, "discrepancy_large": difference}
        p = 1 / (1 + np.exp(-argument.get(select_on, distance)))
        loss, kept, count = 0.0, 0, 0
        for i in range(B):
            for j in range(B):
                if ids[i] == ids[j]:
                    continue
                row = [p[i, q] for q in range(B) if ids[q] != ids[i]]
                column = [p[q, j] for q in range(B) if ids[q] != ids[j]]
                limit = max(np.mean(x) + alpha * np.std(x) for x in (row, column))
                keep = select_on == "none" or p[i, j] > limit
                loss, kept, count = loss + keep * difference[i, j] ** 2, kept + keep, count + 1
        out += [loss, kept / count]
    return out


@pytest.mark.parametrize("select_on", ["proximity", "distance", "discrepancy_large", "none"])
def test_spatial_losses_are_those_of_the_loop(select_on):
    v, t = pairs()
    terms = spatial(v, t, select_on=select_on)
    inter, inter_kept, intra, intra_kept = loop_spatial(v, t, 1.0, select_on)
    np.testing.assert_allclose(
        [terms["inter"], terms["inter_kept"], terms["intra"], terms["intra_kept"]],
        [inter, inter_kept, intra, intra_kept],
        rtol=2e-4,
    )


def test_permuting_one_modality_raises_dim_and_leaves_its_own_distances():
    v, t = pairs(b=256)
    order = np.random.default_rng(0).permutation(D)
    assert dim(v, t[:, order]) > dim(v, t) + 1
    np.testing.assert_allclose(t[:, order] @ t[:, order].T, t @ t.T, atol=1e-6)


def test_spatial_losses_vanish_for_equal_embeddings():
    v, _ = pairs()
    terms = spatial(v, v)
    assert terms["inter"] < 1e-10 and terms["intra"] < 1e-10
    assert spatial(*pairs())["inter"] > 1e-3  # and do not vanish by themselves


def test_a_common_rotation_changes_dim_alone():
    v, t = pairs(b=64)
    ids = jnp.arange(64)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))
    turned = jnp.asarray(v @ rotation), jnp.asarray(t @ rotation)
    before, after = spatial(v, t, ids), spatial(*turned, ids)
    for name in ("inter", "intra"):
        np.testing.assert_allclose(before[name], after[name], rtol=1e-3)
    assert abs(dim(v, t) - dim(*turned)) > 0.1


def test_kept_share_is_neither_none_nor_all():
    v, t = jax.random.normal(jax.random.key(0), (2, 256, 1024))
    terms = spatial(l2_normalise(v), l2_normalise(t), jnp.arange(256))
    assert 0.02 < terms["inter_kept"] < 0.3 and 0.02 < terms["intra_kept"] < 0.3
    dense = spatial(l2_normalise(v), l2_normalise(t), jnp.arange(256), select_on="none")
    assert dense["inter_kept"] == 1


def test_only_the_soft_mask_gives_alpha_a_gradient():
    v, t = pairs()
    of = lambda soft: jax.grad(lambda a: spatial(v, t, alpha=a, soft=soft)["spatial"])(ALPHA)
    assert of(True)[0] != 0
    np.testing.assert_array_equal(of(False), 0)


def test_attended_pairs_are_the_attention_of_the_loop():
    regions, words = jax.random.normal(jax.random.key(0), (2, 2, 3, D))
    region_mask = jnp.array([[True, True, False], [True, True, True]])
    word_mask = jnp.array([[True, True, True], [True, False, False]])
    a, b, valid = losses.attended_pairs(regions, region_mask, words, word_mask)
    unit = lambda x: np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)
    at = 0
    for k in range(2):
        for own, own_mask, other, other_mask, swap in (
            (regions[k], region_mask[k], words[k], word_mask[k], False),
            (words[k], word_mask[k], regions[k], region_mask[k], True),
        ):
            for n in range(3):
                assert valid[at] == own_mask[n]
                seen = [q for q in range(3) if other_mask[q]]
                weight = np.exp([9 * unit(own[n]) @ unit(other[q]) for q in seen])
                mixture = sum(w * other[q] for w, q in zip(weight / weight.sum(), seen, strict=True))
                mine, mixed = (b, a) if swap else (a, b)
                np.testing.assert_allclose(mine[at], own[n], rtol=1e-5)
                np.testing.assert_allclose(mixed[at], mixture, rtol=2e-4, atol=1e-5)
                at += 1


@pytest.mark.parametrize("select_on", ["proximity", "distance", "discrepancy_large", "none"])
def test_spatial_gradient_is_that_of_the_loop(select_on):
    """Central differences of the loop, in float64; the mask is a constant of the gradient."""
    with jax.enable_x64(True):
        v, t = (jnp.asarray(np.asarray(x), jnp.float64) for x in pairs())
        v, t = l2_normalise(v), l2_normalise(t)
        alpha = jnp.ones(2)
        of = lambda v, t: spatial(v, t, alpha=alpha, select_on=select_on)["spatial"]
        grads = jax.grad(of, argnums=(0, 1))(v, t)
        for side, grad in enumerate(grads):
            direction = np.random.default_rng(side).normal(size=v.shape)

            def loop(sign, side=side, direction=direction):
                moved = [v, t]
                moved[side] = moved[side] + sign * 1e-6 * direction
                inter, _, intra, _ = loop_spatial(*moved, 1.0, select_on)
                return 0.05 * inter + 0.1 * intra

            np.testing.assert_allclose(np.sum(grad * direction), (loop(1) - loop(-1)) / 2e-6, rtol=1e-5)


def both_losses(soft, plan):
    def loss(v, t, alpha):
        terms = spatial(v, t, IDS[: len(v)], alpha, soft=soft, plan=plan)
        return 10 * dim(v, t) + terms["spatial"], terms

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


@cache
def on_one_device(b, soft):
    return jax.device_get(both_losses(soft, Plan())(*pairs(b=b), ALPHA))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("devices", "plan"),
    [(8, Plan("ring", 512)), (8, Plan("gather", 3)), (3, Plan("ring", 2)), (2, Plan("ring", 3))],
    ids=str,
)
def test_equal_on_any_devices(devices, plan, soft):
    b = 15 if devices == 3 else B
    mesh = make_mesh(devices)
    with jax.set_mesh(mesh):
        spread = both_losses(soft, plan)(*jax.device_put(pairs(b=b), batch_sharded(mesh)), ALPHA)
    check = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)
    jax.tree.map(check, on_one_device(b, soft), spread)


def test_the_running_correlation_starts_from_the_first_batch_and_only_the_last_has_gradient():
    batches = jax.random.normal(jax.random.key(0), (3, D, D))
    running = jnp.full((D, D), 7.0)  # anything
    for step, batch in enumerate(batches):
        running = losses.running_correlation(running, step, batch, 0.8)
    expected = 0.8 * (0.8 * batches[0] + 0.2 * batches[1]) + 0.2 * batches[2]
    np.testing.assert_allclose(running, expected, rtol=1e-5)
    of = lambda previous, batch: jnp.sum(losses.running_correlation(previous, 2, batch, 0.8))
    past, present = jax.grad(of, argnums=(0, 1))(running, batches[2])
    np.testing.assert_array_equal(past, 0)
    np.testing.assert_allclose(present, 0.2, rtol=1e-6)


def test_a_running_correlation_of_small_batches_is_nearer_to_the_truth():
    """Of eight rows in eight dimensions nothing can be said; of many such batches much."""
    truth = jnp.eye(D)
    running = jnp.zeros((D, D))
    for step in range(40):
        v, t = pairs(seed=step, b=8, noise=0.1)
        last = losses.dimension_correlation(v, t)
        running = losses.running_correlation(running, step, last, 0.95)
    apart = lambda c: float(jnp.linalg.norm(c - truth))
    assert apart(running) < 0.5 * apart(last)
