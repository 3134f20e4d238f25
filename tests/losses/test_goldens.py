"""Every loss function against the numbers of the first version: tests/goldens/presets.npz."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm import losses
from jax_itm.arrays import AttentionMaps
from jax_itm.losses import Components, Sampling, alignment, columns, masked_words, mining, sampling
from tests.goldens.presets import load
from tests.helpers.compiling import optimised

CASES = load(Path(__file__).parents[1] / "goldens" / "presets.npz")
CLOSE = {"rtol": 1e-9, "atol": 1e-10}
FLOAT32 = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(autouse=True)
def as_users_compile():
    with optimised():
        yield


def named(start):
    return [name for name in CASES if name.startswith(start) and not name.endswith(("float32", "float64"))]


def check(name, fn, inputs, suffix="", close=CLOSE, wide=True):
    """`fn(**inputs)` -> (value, {output: array}) against the case, with the gradients that it stores."""
    case = CASES[name]
    grads = [k.removesuffix(suffix) for k in case.grad if k.endswith(suffix)]
    grads = [k for k in grads if k in inputs]
    with jax.enable_x64(wide):
        arguments = {k: jnp.asarray(case.inputs[k]) for k in inputs}
        learnt = {k: arguments[k] for k in grads}
        run = jax.value_and_grad(lambda learnt: fn(**arguments | learnt), has_aux=True)
        (value, outputs), gradient = jax.device_get(jax.jit(run)(learnt))
    np.testing.assert_allclose(value, case.out["value" + suffix], **close)
    for k, x in outputs.items():
        rounded = close if np.asarray(x).dtype == np.float64 else FLOAT32
        np.testing.assert_allclose(x, case.out[k], **rounded, err_msg=k)
    assert grads, name
    for k in grads:
        np.testing.assert_allclose(gradient[k], case.grad[k + suffix], **close, err_msg=k)


PAIRS = ("v", "t", "image_id")


@pytest.mark.parametrize("name", named("fn.info_nce") + named("fn.sigmoid"))
def test_contrastive(name):
    if "info_nce" in name:
        fn = lambda v, t, image_id, scale: (losses.info_nce(v, t, scale=scale, image_ids=image_id), {})
        return check(name, fn, (*PAIRS, "scale"))
    fn = lambda v, t, image_id, **learnt: (losses.sigmoid(v, t, image_ids=image_id, **learnt), {})
    return check(name, fn, (*PAIRS, "scale", "bias"))


@pytest.mark.parametrize("name", named("fn.triplet"))
def test_triplet(name):
    options = CASES[name].options
    more = {"negatives": options["function"].removeprefix("losses.triplet_"), "margin": options["margin"]}
    if "key" in options:
        more |= {k: options[k] for k in ("cutoff", "sphere_dim")} | {"key": jax.random.key(options["key"])}
    check(name, lambda v, t, image_id: (losses.triplet(v, t, image_ids=image_id, **more), {}), PAIRS)


def test_score_gap():
    check("fn.gap", lambda v, t: (losses.score_gap(v, t), {}), ("v", "t"))


def test_dimension_correlation():
    def fn(v, t, valid, cotangent):
        c = losses.dimension_correlation(v, t, valid)
        return jnp.sum(c * cotangent), {"c": c}

    check("fn.dimension_correlation", fn, ("v", "t", "valid", "cotangent"))


@pytest.mark.parametrize("name", named("fn.dim."))
def test_dimension_alignment(name):
    form, phi = CASES[name].options["form"], CASES[name].options["phi"]

    def fn(v, t):
        total = losses.dimension_alignment(v, t, form=form, phi=phi, reduce="sum")
        return losses.dimension_alignment(v, t, form=form, phi=phi), {"sum": total}

    check(name, fn, ("v", "t"))


TOKENS = ("image", "image_mask", "text", "text_mask")


def test_attended_pairs():
    def fn(image, image_mask, text, text_mask, a_cotangent, b_cotangent):
        a, b, real = losses.attended_pairs(image, image_mask, text, text_mask)
        outputs = {"a": jnp.where(real[:, None], a, 0), "b": jnp.where(real[:, None], b, 0), "valid": real}
        return jnp.sum(outputs["a"] * a_cotangent + outputs["b"] * b_cotangent), outputs

    check("fn.attended_pairs", fn, (*TOKENS, "a_cotangent", "b_cotangent"))


@pytest.mark.parametrize("name", named("fn.dim_attended"))
def test_dimension_alignment_of_attended_pairs(name):
    form, phi = CASES[name].options["form"], CASES[name].options["phi"]

    def fn(**tokens):
        a, b, real = losses.attended_pairs(*(tokens[k] for k in TOKENS))
        return losses.dimension_alignment(a, b, mask=real, form=form, phi=phi), {}

    check(name, fn, TOKENS)


@pytest.mark.parametrize(
    ("suffix", "inter", "intra"), [("", 0.05, 0.1), ("_of_inter", 1.0, 0.0), ("_of_intra", 0.0, 1.0)]
)
@pytest.mark.parametrize("name", named("fn.spatial"))
def test_spatial(name, suffix, inter, intra):
    options = CASES[name].options
    more = {"select_on": options["select_on"], "mask": "soft" if options["soft"] else "hard"}

    def fn(v, t, image_id, alpha):
        arguments = {"image_ids": image_id, "alpha": alpha, "inter": inter, "intra": intra}
        terms = losses.spatial_terms(v, t, **arguments, **more)
        return terms.pop("spatial"), {} if suffix else terms

    check(name, fn, (*PAIRS, "alpha"), suffix)


def sampled(options, **arguments):
    case = CASES[options["case"]]
    fields = {k: case.options["options"][k] for k in Sampling._fields}
    origin = (arguments["image_origin"], arguments["text_origin"]) if case.options["origin"] else None
    more = {
        "thresholds": arguments["alpha"],
        "image_ids": arguments["image_id"],
        "options": Sampling(**fields),
    }
    key = jax.random.key(case.options["key"])
    actual = losses.sample_distributions(*(arguments[k] for k in TOKENS), **more, key=key, origin=origin)
    v_x, t_x = (
        jnp.where(arguments[f"{side}_mask"][..., None], x, 0)
        for side, x in (("image", actual.image), ("text", actual.text))
    )
    if options["drawn"]:
        return jnp.sum(v_x * arguments["image_cotangent"]) + jnp.sum(t_x * arguments["text_cotangent"]), {}
    log_s = columns.relatedness(*actual.moments)
    both = columns.select_both(log_s, arguments["alpha"], fields["threshold_on"], fields["identity"])
    outputs = {"v_x": v_x, "t_x": t_x, "kept": actual.terms["kept"], "empty": actual.terms["empty"]}
    outputs |= {"log_s": log_s, "s_v": both[0].weights, "s_t": both[1].weights}
    for side, moments in zip(("image", "text"), actual.moments, strict=True):
        outputs |= {f"{side}_mean": moments.mean, f"{side}_variance": moments.variance}
    return actual.terms["sampling"], outputs


@pytest.mark.parametrize("suffix", ["", "_of_drawn"])
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("fn.sampled")])
def test_distribution_sampling(name, suffix):
    options = {"case": name, "drawn": bool(suffix)}
    inputs = (
        *TOKENS,
        "alpha",
        "image_id",
        "image_cotangent",
        "text_cotangent",
        "image_origin",
        "text_origin",
    )
    low = name.endswith("float32")
    check(name, partial(sampled, options), inputs, suffix, FLOAT32 if low else CLOSE, not low)


@pytest.mark.parametrize("name", named("fn.contrast"))
def test_contrast_of_sampled_tokens(name):
    options = Sampling(level=CASES[name].options["level"], temperature=CASES[name].options["temperature"])

    def fn(sampled, image, image_mask, image_id):
        return sampling.contrast(sampled, image, image_mask, image_id, options=options), {}

    check(name, fn, ("sampled", "image", "image_mask", "image_id"))


@pytest.mark.parametrize("form", ["one_minus", "literal"])
def test_modality_loss(form):
    fn = lambda image, image_mask: (losses.modality_loss(image, image_mask, form), {})
    check(f"fn.modality_loss.{form}", fn, ("image", "image_mask"))


def test_reconstruction_loss():
    fn = lambda text_made, text, text_mask: (losses.reconstruction_loss(text_made, text, text_mask), {})
    check("fn.distance", fn, ("text_made", "text", "text_mask"))


@pytest.mark.parametrize("part", ["fused", "crossed"])
def test_decoupling(part):
    def fn(parts, **arguments):
        image, text = (
            Components(
                arguments[f"{k}_made"], arguments[f"{k}_modality"], arguments[k], arguments[f"{k}_mask"]
            )
            for k in ("image", "text")
        )
        factors = {"modality": 0.0, "fused": 0.0, "crossed": 0.0} | {part: 1.0}
        both = arguments["image_made"], arguments["text_made"]
        return losses.decoupling(image, text, weights=parts, sampled=both, **factors), {}

    inputs = ("parts", *TOKENS, "image_made", "text_made", "image_modality", "text_modality")
    check(f"fn.fit.{part}", fn, inputs)


def test_equal_length():
    def fn(tokens, cotangent):
        out = losses.equal_length(tokens)
        return jnp.sum(out * cotangent), {"out": out}

    check("fn.even_length", fn, ("tokens", "cotangent"))


@pytest.mark.parametrize("name", named("fn.relations"))
def test_attention_alignment(name):
    parts = name.split(".")
    options = {"form": parts[2], "singular_softmax": parts[3:4] != ["plain"]}

    def fn(cotangent, **maps):
        seen = AttentionMaps(**maps)
        each = losses.attention_alignment(seen.turned() if parts[-1] == "turned" else seen, **options)
        return jnp.sum(each * cotangent), {"each": each}

    check(name, fn, ("cotangent", *AttentionMaps._fields))


@pytest.mark.parametrize("name", ["exp", "linear", "log"])
def test_schedule(name):
    case = CASES[f"fn.schedule.{name}"]
    with jax.enable_x64(True):
        weight = alignment.schedule(name, jnp.asarray(case.inputs["progress"]))
    np.testing.assert_allclose(weight, case.out["weight"], **CLOSE)


def test_rank_loss():
    def fn(positive, negative):
        each = losses.rank_loss(positive, negative, 0.2)
        return jnp.sum(each), {"each": each}

    check("fn.rank_loss", fn, ("positive", "negative"))


@pytest.mark.parametrize("name", [k for k in CASES if k.startswith(("fn.mined", "fn.drawn"))])
def test_mining(name):
    case = CASES[name]
    options = case.options
    with jax.enable_x64(options.get("x64", True)):
        ids = jnp.asarray(case.inputs["image_id"])
        if "tile" in options:
            scores = jnp.asarray(case.inputs["scores"])
            actual = mining.mine_hardest(
                lambda at: scores[at], ids, options["anchors"], options["hardest"], options["tile"]
            )
        else:
            sizes = options["anchors"], options["count"]
            actual = mining.draw_random(jax.random.key(options["key"]), ids, *sizes)
    np.testing.assert_array_equal(np.where(actual.real, actual.rows, -1), case.out["rows"])
    np.testing.assert_array_equal(actual.real, case.out["real"])


@pytest.mark.parametrize("wide", [True, False])
def test_masked_words(wide):
    case = CASES[f"fn.hidden_words.key7.{'float64' if wide else 'float32'}"]
    with jax.enable_x64(wide):
        text = {k: jnp.asarray(case.inputs[k]) for k in ("ids", "mask")}
        shown, chosen = masked_words.hide_words(jax.random.key(7), text, 0.5, 11)
    for name, x in (("ids", shown["ids"]), ("hidden", shown["hidden"]), ("chosen", chosen)):
        np.testing.assert_array_equal(x, case.out[name])


def test_masked_lm():
    def fn(logits, ids, chosen):
        return losses.masked_lm(logits, ids, chosen) * jnp.sum(chosen), {}

    check("fn.word_sums", fn, ("logits", "ids", "chosen"))
