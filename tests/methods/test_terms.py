"""Any term on any base: weights, ramps, terms of one's own, and statistics from step to step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm import methods
from jax_itm.config import default, flatten
from jax_itm.config.fields import Field
from jax_itm.config.loss_fields import LOSSES
from jax_itm.errors import UserError
from jax_itm.methods import build, loss_term
from jax_itm.methods.build import label
from jax_itm.methods.terms import TERMS, declared_term
from tests.helpers.methods import FACTS, QUICK, batch, one_sgd_step, small

BASES = {
    "triplet": {"losses.triplet.weight": 1.0},
    "knn": {"losses.triplet.weight": 1.0, "losses.triplet.negatives": "knn"},
    "info_nce": {"losses.info_nce.weight": 1.0},
    "sigmoid": {"losses.sigmoid.weight": 1.0},
}
ADDED = {
    "dimension": {"losses.dimension.weight": 3.0},
    "spatial": {"losses.spatial.weight": 0.5},
    "sampling": {"losses.sampling.weight": 0.3},
}


def method_of(**fields):
    config = small(
        "info_nce", **QUICK | {"losses.info_nce.weight": 0.0, "image.drop": 0.0, "text.drop": 0.0} | fields
    )
    return build(config, FACTS, 100)


def value_and_grad(method, params, step=0):
    loss = lambda p: method.loss(p, batch(), jax.random.key(1), jnp.int32(step))
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("base", BASES)
def test_a_term_adds_its_weighted_value_and_gradient_to_any_base(base, added):
    both = method_of(**BASES[base] | ADDED[added])
    params = both.init(jax.random.key(0), batch())
    (total, aux), grads = value_and_grad(both, params)
    parts = []
    for fields in (BASES[base], ADDED[added]):
        alone = method_of(**fields)
        own = {k: v for k, v in params["loss"].items() if k in alone.parametrised}
        parts.append(value_and_grad(alone, {**params, "loss": own}))
    np.testing.assert_allclose(total, sum(value for (value, _), _ in parts), rtol=1e-5)
    weight = next(iter(ADDED[added].values()))
    np.testing.assert_allclose(aux.terms[f"weighted/{added}"], weight * aux.terms[added], rtol=1e-6)
    for side in ("image", "text"):
        summed = jax.tree.map(jnp.add, parts[0][1][side], parts[1][1][side])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), grads[side], summed)


def test_a_term_of_weight_0_is_neither_computed_nor_given_parameters():
    plain = method_of(**BASES["info_nce"])
    off = method_of(**BASES["info_nce"] | {"losses.sampling.weight": 0.0, "losses.sampling.identity": 0.1})
    params = off.init(jax.random.key(0), batch())
    assert set(params["loss"]) == {"info_nce"} and "stats" not in params
    text = lambda m: str(
        jax.make_jaxpr(lambda p: m.loss(p, batch(), jax.random.key(0), jnp.int32(0)))(params)
    )
    assert text(off) == text(plain) and "sort[" not in text(off)
    on = method_of(**BASES["info_nce"] | ADDED["sampling"])
    started = on.init(jax.random.key(0), batch())
    assert "sort[" in str(
        jax.make_jaxpr(lambda p: on.loss(p, batch(), jax.random.key(0), jnp.int32(0)))(started)
    )


@pytest.mark.parametrize(
    ("start", "ramp", "expected"),
    [
        ("0 steps", "0 steps", [2, 2, 2, 2, 2, 2]),
        ("3 steps", "0 steps", [0, 0, 0, 2, 2, 2]),
        ("0 steps", "4 steps", [0.5, 1, 1.5, 2, 2, 2]),
        ("2 steps", "2 steps", [0, 0, 1, 2, 2, 2]),
    ],
)
def test_a_weight_starts_and_rises_as_it_is_told(start, ramp, expected):
    method = method_of(
        **BASES["sigmoid"]
        | {"losses.sigmoid.weight": 2.0, "losses.sigmoid.start": start, "losses.sigmoid.ramp": ramp}
    )
    np.testing.assert_allclose([method.weight("sigmoid", jnp.int32(k)) for k in range(6)], expected)


def test_a_ramp_scales_the_gradient():
    ramped = method_of(**BASES["sigmoid"] | {"losses.sigmoid.ramp": "10 steps"})
    params = ramped.init(jax.random.key(0), batch())
    grads = [value_and_grad(ramped, params, step)[1]["text"]["words"]["embedding"] for step in (1, 9, 30)]
    np.testing.assert_allclose(grads[0] * 5, grads[1], rtol=1e-4, atol=1e-9)
    np.testing.assert_array_equal(grads[1], grads[2])


@pytest.fixture
def own_term():
    """A term of a user's own: the test is its documentation."""

    @loss_term("uniformity", {"t": Field(2.0, "sharpness", above=0)}, help="spread over the sphere")
    def uniformity(inputs):
        images = inputs.image.embedding
        squared = jnp.sum((images[:, None] - images[None]) ** 2, axis=-1)
        return jnp.log(jnp.mean(jnp.exp(-inputs.options.t * squared)))

    yield uniformity
    del TERMS["uniformity"], LOSSES["uniformity"]


def test_a_term_of_ones_own_is_ten_lines(own_term):
    config = small("info_nce", **QUICK)
    assert config.losses.uniformity.weight == 0
    config.losses.uniformity.weight, config.losses.uniformity.t = 0.5, 3.0
    alone, spread = one_sgd_step(config, 1, batch()), one_sgd_step(config, 8, batch())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), alone, spread)
    terms = alone[1]
    np.testing.assert_allclose(terms["weighted/uniformity"], 0.5 * terms["uniformity"], rtol=1e-6)
    np.testing.assert_allclose(terms["loss"], terms["info_nce"] + terms["weighted/uniformity"], rtol=1e-5)
    assert label(config) == "info_nce + uniformity"


def test_a_name_that_is_taken_or_unknown_is_one_line(own_term):
    with pytest.raises(UserError, match="there is such a loss term already"):
        loss_term("info_nce", {"x": Field(1.0, "of mine")})(lambda inputs: 0.0)
    with pytest.raises(UserError, match="no such loss term; did you mean 'info_nce'"):
        methods.DualEncoder(nn.Dense(2), nn.Dense(2), {"infonce": {"weight": 1.0}})
    with pytest.raises(UserError, match=r"losses.info_nce.wait: no such field; did you mean 'weight'"):
        methods.DualEncoder(nn.Dense(2), nn.Dense(2), {"info_nce": {"wait": 1.0}})
    with pytest.raises(UserError, match="every weight is 0"):
        methods.DualEncoder(nn.Dense(2), nn.Dense(2), {})


def test_a_registered_term_is_never_replaced_by_another(own_term):
    fields = {"t": Field(2.0, "sharpness", above=0)}
    again = loss_term("uniformity", fields, help="spread over the sphere")
    assert again(own_term) is own_term  # a notebook's cell that runs again
    for register in (again, declared_term("info_nce")):
        with pytest.raises(UserError, match="there is such a loss term already"):
            register(lambda inputs: 0.0)
    with pytest.raises(UserError, match=r"config\.losses\.my-term: .* must be an identifier"):
        loss_term("my-term")(lambda inputs: 0.0)
    for name in ("gap", "loss", "step_seconds"):
        with pytest.raises(UserError, match=rf"config\.losses\.{name}: the log uses this name"):
            loss_term(name)(lambda inputs: 0.0)


@pytest.fixture
def sampling_terms():
    """Terms without fields that use distribution sampling: one says so, one does not."""
    value = lambda inputs: inputs.sampled().terms["sampling"]
    loss_term("undeclared")(value)
    loss_term("declared", uses_params_of=lambda options: "sampling")(value)
    yield
    for name in ("undeclared", "declared"):
        del TERMS[name], LOSSES[name]


class Linear(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(8)(inputs["x"])


def test_a_term_that_samples_says_whose_parameters_it_uses(sampling_terms):
    inputs = {"image": {"x": jnp.ones((4, 5))}, "text": {"x": jnp.eye(4, 6)}}

    def loss(name):
        method = methods.DualEncoder(Linear(), Linear(), {name: {"weight": 1.0}})
        params = method.init(jax.random.key(0), inputs)
        return method.loss(params, inputs, jax.random.key(1), jnp.int32(0))[0]

    assert np.isfinite(loss("declared"))
    with pytest.raises(ValueError, match=r"needs the parameters of `sampling`: .* uses_params_of="):
        loss("undeclared")


def test_a_running_correlation_is_an_average_of_past_batches_with_this_ones_gradient():
    method = method_of(
        **BASES["info_nce"]
        | {
            "losses.dimension.weight": 1.0,
            "losses.dimension.samples": "running",
            "losses.dimension.decay": 0.5,
        }
    )
    params = method.init(jax.random.key(0), batch())
    (_, first), _ = value_and_grad(method, params)
    stats = first.stats["losses"]["dimension"]
    assert stats["count"] == 1
    once = method_of(**BASES["info_nce"] | {"losses.dimension.weight": 1.0})
    (_, plain), _ = value_and_grad(once, {k: v for k, v in params.items() if k != "stats"})
    np.testing.assert_allclose(first.terms["dimension"], plain.terms["dimension"], rtol=1e-5)
    (_, second), grads = value_and_grad(method, {**params, "stats": first.stats})
    # The same batch again: the average stays, and half of it has a gradient.
    np.testing.assert_allclose(second.terms["dimension"], first.terms["dimension"], rtol=1e-4)
    (_, _), full = value_and_grad(method, params)
    shares = [np.linalg.norm(jax.tree.leaves(g["image"])[0]) for g in (grads, full)]
    assert shares[0] != pytest.approx(shares[1])
    assert not np.any(jax.tree.leaves(grads["stats"])[0])


@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
def test_a_temperature_at_its_limit_still_learns(name):
    """Clipped after the update, as CLIP clips it: a clipped product would have no gradient for ever."""
    method = method_of(**BASES[name] | {f"losses.{name}.max_scale": 20.0})
    params = method.init(jax.random.key(0), batch())
    above = {**params, "loss": {name: params["loss"][name] | {"log_scale": jnp.float32(5.0)}}}
    limit = method.project(above)["loss"][name]["log_scale"]
    np.testing.assert_allclose(limit, np.log(20.0), rtol=1e-6)
    (_, aux), grads = value_and_grad(method, method.project(above))
    np.testing.assert_allclose(aux.terms[f"{name}/scale"], 20.0, rtol=1e-5)
    assert grads["loss"][name]["log_scale"] != 0


def test_labels_say_how_a_run_differs_from_its_preset():
    config = default("sigmoid")
    config.losses.dimension.weight = 10.0
    assert label(config) == "sigmoid + dimension"
    config = default("dias")
    config.losses.spatial.weight = 0.0
    assert label(config) == "dias - spatial"
    assert label(default("cdds")) == "cdds practical"
    config = default("cdds")
    config.losses.sampling.identity = 0.0
    assert label(config) == "cdds paper"


def test_every_term_of_the_config_is_registered():
    names = {name.split(".")[1] for name in flatten(default("dias")) if name.startswith("losses.")}
    assert names == set(TERMS)
