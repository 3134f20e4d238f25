"""Schedules against closed forms, and rules over parameter paths."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_itm.config.load import default
from jax_itm.errors import UserError
from jax_itm.train.optimizer import build as build_optimizer

PARAMS = {
    "text": {"bert": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
    "image": {"kernel": jnp.ones((2, 2))},
}


def config(**fields):
    actual = default("info_nce")
    actual.batch_size = 10
    actual.optimizer.clip = 0.0
    with actual.unlocked():
        actual.update_from_flattened_dict(fields)
    return actual


def rates(steps, total=100, **fields):
    _, rate = build_optimizer(config(**fields), PARAMS, total, 100)
    return [float(rate(step)) for step in steps]


def test_schedules():
    warm = {"optimizer.lr": 1.0, "optimizer.warmup": "1 epochs"}  # 10 steps
    assert rates([0, 5, 10, 99], **warm, **{"optimizer.schedule": "constant"}) == [0, 0.5, 1, 1]
    linear = rates([10, 55, 100], **warm, **{"optimizer.schedule": "linear"})
    np.testing.assert_allclose(linear, [1, 0.5, 0], atol=1e-6)
    cosine = rates([10, 55, 100], **warm, **{"optimizer.schedule": "cosine"})
    np.testing.assert_allclose(cosine, [1, 0.5, 0], atol=1e-6)
    drops = {"optimizer.schedule": "step", "optimizer.step_at": ("20 steps", "500 examples")}
    np.testing.assert_allclose(
        rates([10, 19, 21, 49, 51], **warm, **drops), [1, 1, 0.1, 0.1, 0.01], rtol=1e-5
    )


def one_update(**fields):
    chosen = config(**{"optimizer.schedule": "constant", "optimizer.lr": 0.1} | fields)
    optimizer, _ = build_optimizer(chosen, PARAMS, 10, 100)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    return jax.tree.map(lambda x: float(x.ravel()[0]), updates)


def test_factors_freezing_and_decay_follow_the_paths():
    actual = one_update(
        **{
            "optimizer.lr_factors": (("text/bert", 0.5),),
            "optimizer.freeze": ("^image",),
            "optimizer.weight_decay": 0.2,
            "optimizer.decay_on": ("kernel$",),
        }
    )
    np.testing.assert_allclose(actual["image"]["kernel"], 0)
    np.testing.assert_allclose(actual["text"]["bert"]["bias"], -0.05, rtol=1e-4)  # no decay
    np.testing.assert_allclose(actual["text"]["bert"]["kernel"], -0.06, rtol=1e-4)  # 0.05 (1 + 0.2)


def test_clipping_counts_trained_parameters_alone():
    chosen = config(**{"optimizer.clip": 1.0, "optimizer.freeze": ("^image",)})
    optimizer, _ = build_optimizer(chosen, PARAMS, 10, 100)
    grads = {
        "text": {"bert": {"kernel": jnp.zeros((2, 2)), "bias": jnp.array([0.6, 0.0])}},
        "image": {"kernel": jnp.full((2, 2), 100.0)},
    }
    state = optimizer.init(PARAMS)
    _, state = optimizer.update(grads, state, PARAMS)
    moments = [x for x in jax.tree.leaves(state) if np.shape(x) == (2,)]
    np.testing.assert_allclose(moments[0], [0.06, 0], rtol=1e-5)  # 0.1 * 0.6: not clipped


@pytest.mark.parametrize("field", ["freeze", "decay_on"])
def test_a_pattern_that_matches_nothing_is_an_error(field):
    with pytest.raises(UserError, match=f"config.optimizer.{field}: 'berd' matches no parameter path"):
        one_update(**{f"optimizer.{field}": ("berd",)})
    with pytest.raises(UserError, match="is no regular expression"):
        one_update(**{f"optimizer.{field}": ("(",)})


def test_a_factor_that_matches_nothing_is_an_error():
    with pytest.raises(UserError, match="lr_factors: 'berd' matches no parameter path"):
        one_update(**{"optimizer.lr_factors": (("berd", 0.1),)})


def test_it_is_adamw():
    plain = optax.adamw(0.1, 0.9, 0.999, weight_decay=0.0)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    expected, _ = plain.update(grads, plain.init(PARAMS), PARAMS)
    actual = one_update(**{"optimizer.weight_decay": 0.0})
    np.testing.assert_allclose(actual["image"]["kernel"], expected["image"]["kernel"][0, 0], rtol=1e-6)
