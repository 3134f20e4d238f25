"""The whole objectives are the sums of their terms, and the package loads nothing that users may lack."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm import losses
from jax_itm.losses import AttentionMaps, Components, Sampling
from tests.helpers.paths import ROOT

IDS = jnp.arange(8).at[3].set(0)


def unit(seed, *shape):
    return losses.l2_normalise(jax.random.normal(jax.random.key(seed), shape))


def test_dias_is_the_sum_of_its_terms():
    v, t = unit(0, 8, 16), unit(1, 8, 16)
    key = jax.random.key(2)
    total = losses.dias(v, t, key=key, image_ids=IDS)
    draws = {"negatives": "distance_weighted", "key": key}
    terms = losses.triplet(v, t, image_ids=IDS, **draws), losses.dimension_alignment(v, t)
    spatial = losses.spatial_constraint(v, t, image_ids=IDS)
    np.testing.assert_allclose(total, terms[0] + 10 * terms[1] + spatial, rtol=1e-6)
    alone = losses.dias(v, t, negatives="hardest", dimension=0.0, inter=0.0, intra=0.0)
    np.testing.assert_allclose(alone, losses.triplet(v, t), rtol=1e-6)


@pytest.mark.parametrize("schedule", ["each_batch", "random_features", "precomputed"])
def test_cdds_is_the_sum_of_its_terms(schedule):
    side = lambda seed, n: Components(*(unit(seed + k, 8, n, 4) for k in range(3)), jnp.ones((8, n), bool))
    image, text = side(0, 5), side(3, 7)
    common = {"image_ids": IDS, "options": Sampling(schedule), "key": jax.random.key(9)}
    thresholds, weights = jnp.array([0.5, 0.2]), jnp.array([0.9, 1.1, 0.8])
    total = losses.cdds(image, text, thresholds=thresholds, weights=weights, **common)
    tokens = image.semantic, image.mask, text.semantic, text.mask
    origin = image.origin, text.origin
    sampled = losses.sample_distributions(*tokens, thresholds=thresholds, origin=origin, **common)
    terms = losses.decoupling_terms(image, text, weights=weights, sampled=sampled[:2])
    decoupled = 0.1 * terms["modality"] + 0.5 * terms["fused"] + 0.5 * terms["crossed"]
    np.testing.assert_allclose(total, sampled.terms["sampling"] + decoupled, rtol=1e-6)
    np.testing.assert_allclose(terms["decoupling"], decoupled, rtol=1e-6)


def maps(seed, x, y):
    softmax = lambda k, *shape: jax.nn.softmax(jax.random.normal(jax.random.key(seed + k), shape), axis=2)
    attention = softmax(0, 4, x, x), softmax(1, 4, y, y), softmax(2, 4, x, y), softmax(3, 4, y, x)
    return AttentionMaps(*attention, jnp.ones((4, x), bool), jnp.ones((4, y), bool))


@pytest.mark.parametrize("form", ["singular", "distributed", "congruence"])
def test_iais_is_the_sum_of_its_terms(form):
    of_image, of_text = jax.random.normal(jax.random.key(0), (2, 4, 6))
    vision, language = maps(1, 5, 3), maps(5, 3, 5)
    real = jnp.ones((4, 5), bool).at[1, 2:].set(False)
    total = losses.iais(of_image, of_text, vision, language, weight=0.3, form=form, image_real=real)
    rank = lambda scores: losses.rank_loss(scores[:, 0], scores[:, 1:])
    aligned = [losses.attention_alignment(one, form=form) for one in (vision, language)]
    expected = jnp.mean(rank(of_image)[real]) + jnp.mean(rank(of_text))
    np.testing.assert_allclose(total, expected + 0.3 * (aligned[0].sum() + aligned[1].sum()), rtol=1e-6)
    mean = losses.iais(of_image, of_text, vision, language, weight=1.0, form=form, per_update_mean=True)
    parts = jnp.mean(rank(of_image)) + jnp.mean(rank(of_text)) + aligned[0].mean() + aligned[1].mean()
    np.testing.assert_allclose(mean, parts, rtol=1e-6)


def test_the_losses_load_neither_flax_nor_tensorflow_nor_orbax():
    code = "import sys, jax_itm.losses; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"flax", "tensorflow", "orbax", "optax", "grain", "ml_collections"} & set(run.stdout.split())
    assert "jax" in run.stdout.split()
