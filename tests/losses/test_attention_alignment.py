"""The alignments of IAIS against the golden numbers, in float64, and what padding must not change."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_itm.arrays import AttentionMaps
from jax_itm.config.load import default
from jax_itm.losses import alignment, rank_loss
from jax_itm.train import optimizer

GOLD = dict(np.load(Path(__file__).parents[1] / "goldens" / "iais.npz"))
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def maps(own, other, out, back) -> AttentionMaps:
    """Of one pair, nothing padded."""
    own, other, out, back = (jnp.asarray(x)[None] for x in (own, other, out, back))
    true = lambda x: jnp.ones(x.shape[:2], bool)
    return AttentionMaps(own, other, out, back, true(own), true(other))


def golden(side: str) -> AttentionMaps:
    txt, img, t2i, i2t = (GOLD[f"attention_{name}_attn"] for name in ("txt", "img", "t2i", "i2t"))
    return maps(txt, img, t2i, i2t) if side == "L" else maps(img, txt, i2t, t2i)


def test_divergence():
    a, b = jnp.asarray(GOLD["mkl_A"])[None], jnp.asarray(GOLD["mkl_B"])[None]
    all_true = jnp.ones(a.shape, bool)
    of = lambda p, q: alignment.divergence(p, q, all_true)[0]
    np.testing.assert_allclose(of(a, b), GOLD["mkl_kl_A_B"], **CLOSE)
    np.testing.assert_allclose(of(b, a), GOLD["mkl_kl_B_A"], **CLOSE)
    both = lambda p, q: alignment.symmetric_divergence(p, q, all_true)[0]
    value, grads = jax.value_and_grad(both, argnums=(0, 1))(a, b)
    np.testing.assert_allclose(value, GOLD["mkl_mkl"], **CLOSE)
    for name, grad in zip("AB", grads, strict=True):
        np.testing.assert_allclose(grad[0], GOLD[f"mkl_grad_{name}"], **CLOSE)


@pytest.mark.parametrize("side", ["L", "V"])
def test_singular(side):
    inputs, gold = golden(side), lambda name: GOLD[f"singular_{side}_{name}"]
    target = alignment.singular_target(inputs)
    np.testing.assert_array_equal(target.chosen[0], gold("index"))
    np.testing.assert_allclose(target.extracted[0], gold("extracted"), **CLOSE)
    np.testing.assert_allclose(target.rows[0], gold("pseudo"), **CLOSE)
    value, grad = jax.value_and_grad(lambda m: alignment.singular(m)[0], allow_int=True)(inputs)
    np.testing.assert_allclose(value, gold("loss"), **CLOSE)
    own, other = ("txt", "img") if side == "L" else ("img", "txt")
    np.testing.assert_allclose(grad.own[0], gold(f"grad_{own}"), **CLOSE)
    np.testing.assert_allclose(grad.other[0], gold(f"grad_{other}"), **CLOSE)
    assert not np.any(grad.out)  # the argmax passes nothing on


@pytest.mark.parametrize("side", ["L", "V"])
def test_distributed(side):
    inputs, gold = golden(side), lambda name: GOLD[f"distributed_{side}_{name}"]
    np.testing.assert_allclose(alignment.round_trip(inputs)[0], gold("pseudo"), **CLOSE)
    value, grad = jax.value_and_grad(lambda m: alignment.distributed(m)[0], allow_int=True)(inputs)
    np.testing.assert_allclose(value, gold("loss"), **CLOSE)
    names = ("txt", "img", "t2i", "i2t") if side == "L" else ("img", "txt", "i2t", "t2i")
    for name, actual in zip(names, (grad.own, grad.other, grad.out, grad.back), strict=True):
        np.testing.assert_allclose(actual[0], gold(f"grad_{name}"), **CLOSE)


def test_worked_example():
    txt, img, t2i = (GOLD[f"worked2x2_{name}"] for name in ("txt", "img", "t2i"))
    language, vision = maps(txt, img, t2i, img), maps(img, txt, t2i, t2i)
    np.testing.assert_allclose(alignment.singular(language)[0], GOLD["worked2x2_L_loss"], **CLOSE)
    np.testing.assert_allclose(alignment.singular(vision)[0], GOLD["worked2x2_V_loss"], **CLOSE)
    np.testing.assert_allclose(alignment.distributed(language)[0], GOLD["worked2x2_dist_L_loss"], **CLOSE)


def test_rank_loss():
    scores = jnp.asarray(GOLD["training_scores"])
    of = lambda s: rank_loss(s[:, 0], s[:, 1:], 0.2)
    np.testing.assert_allclose(of(scores), GOLD["training_rank_loss"], **CLOSE)
    grad = jax.grad(lambda s: jnp.mean(of(s)))(scores)
    np.testing.assert_allclose(grad, GOLD["training_rank_grad"], **CLOSE)


def test_schedules():
    steps = jnp.asarray(GOLD["training_steps"])
    for name in ("exp", "linear", "log"):
        actual = alignment.schedule(name, (steps / 5000).astype(jnp.float32))  # as the golden numbers were
        np.testing.assert_allclose(actual, GOLD[f"training_tsa_{name}"], rtol=3e-7, atol=1e-10)
    with (config := default("iais")).unlocked():
        config.optimizer.update({"lr": 5e-5, "schedule": "linear", "warmup": "500 steps", "floor": 1e-8})
    rate = optimizer.schedule(config.optimizer, 5000, lambda duration: int(duration.split()[0]))
    actual = [float(rate(int(step))) for step in steps]
    np.testing.assert_allclose(actual, GOLD["training_lr"], rtol=1e-6, atol=1e-10)


def test_bert_adam():
    params = jnp.asarray(GOLD["training_adamw_traj"][0])
    adam = optimizer.bert_adam(lambda count: 0.01, 0.9, 0.98, 1e-6, 0.01, lambda tree: jnp.ones_like(tree))
    state = adam.init(params)
    for grads, expected in zip(GOLD["training_adamw_grads"], GOLD["training_adamw_traj"][1:], strict=True):
        updates, state = adam.update(jnp.asarray(grads), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, expected, **CLOSE)


def padded(one: AttentionMaps, more: int) -> AttentionMaps:
    wide = lambda x: jnp.pad(x, ((0, 0), (0, more), (0, more)), constant_values=0.3)  # no zeros: worse
    mask = lambda x: jnp.pad(x, ((0, 0), (0, more)))
    return AttentionMaps(*map(wide, one[:4]), *map(mask, one[4:]))


ALIGNMENTS = [alignment.singular, alignment.distributed, alignment.congruence]


@pytest.mark.parametrize("loss", ALIGNMENTS, ids=lambda f: f.__name__)
def test_padding_changes_nothing(loss):
    """Once the maps' padded keys hold 0, as a masked softmax leaves them."""
    one = golden("L")
    many = padded(one, 2)
    keys = lambda x, mask: jnp.where(mask[:, None, :], x, 0)
    masks = many.mask, many.other_mask, many.other_mask, many.mask
    many = AttentionMaps(*(keys(x, m) for x, m in zip(many[:4], masks, strict=True)), *many[4:])
    expected, slopes = jax.value_and_grad(lambda x: loss(one._replace(own=x))[0])(one.own)
    actual, wider = jax.value_and_grad(lambda x: loss(many._replace(own=x))[0])(many.own)
    np.testing.assert_allclose(actual, expected, **CLOSE)
    np.testing.assert_allclose(wider[:, :5, :5], slopes, **CLOSE)
    assert np.all(np.isfinite(wider))


def test_without_the_second_softmax_rows_still_sum_to_one():
    target = alignment.singular_target(golden("V"), softmax=False)
    np.testing.assert_allclose(np.sum(target.rows, axis=2), 1, **CLOSE)
    assert float(jnp.max(target.rows)) > 1.5 * float(jnp.max(alignment.singular_target(golden("V")).rows))


def test_an_exact_zero_makes_the_singular_loss_infinite():
    one = golden("L")
    assert alignment.singular(one._replace(own=one.own.at[0, 0, 1].set(0)))[0] == np.inf
    assert np.isfinite(alignment.distributed(one._replace(own=one.own.at[0, 0, 1].set(0)))[0])


def test_isd_from_annotation():
    """Against a plain loop; a phrase without a box and a pair with one phrase do not count."""
    one = golden("L")
    words = np.zeros((3, 5), bool)
    boxes = np.zeros((3, 7), bool)
    words[0, :2], words[1, 3], words[2, 4] = True, True, True
    boxes[0, 1], boxes[1, [2, 5]] = True, True
    distance, counts = alignment.annotated_isd(one, jnp.asarray(words)[None], jnp.asarray(boxes)[None])

    def among(attention, groups):
        r = np.zeros((2, 2))
        for p in range(2):
            for q in range(2):
                r[p, q] = np.mean([sum(attention[i, j] for j in groups[q]) for i in groups[p]])
        return r / r.sum(1, keepdims=True)

    a = among(GOLD["attention_txt_attn"], [[0, 1], [3]])
    b = among(GOLD["attention_img_attn"], [[1], [2, 5]])
    expected = np.sum(a * np.log(a / b) + b * np.log(b / a)) / 2
    np.testing.assert_allclose(distance[0], expected, **CLOSE)
    assert counts[0]
    assert not alignment.annotated_isd(one, jnp.asarray(words[:1])[None], jnp.asarray(boxes[:1])[None])[1][0]


@pytest.mark.parametrize("side", ["L", "V"])
def test_congruence_is_that_of_the_loop(side):
    """P = A_XY A_YY A_XY^T, a softmax on both sides; the attention across is a constant of the gradient."""
    one = golden(side)
    own, other, out = (np.asarray(x[0]) for x in (one.own, one.other, one.out))
    n, m = out.shape
    through = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            through[i, j] = sum(out[i, k] * other[k, q] * out[j, q] for k in range(m) for q in range(m))
    softmax = lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)
    p, q = softmax(own), softmax(through)
    expected = np.sum(p * np.log(p / q) + q * np.log(q / p)) / n
    value, grad = jax.value_and_grad(lambda m: alignment.congruence(m)[0], allow_int=True)(one)
    np.testing.assert_allclose(value, expected, **CLOSE)
    assert np.any(grad.own) and np.any(grad.other) and not np.any(grad.out) and not np.any(grad.back)
