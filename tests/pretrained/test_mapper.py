"""The one mapper of published weights: names, shapes, and tables that are longer than the model's."""

import re

import numpy as np
import pytest

from jax_itm.errors import UserError
from jax_itm.pretrained import family
from jax_itm.pretrained.family import Family
from jax_itm.pretrained.hf_families import FAMILIES
from jax_itm.pretrained.mapper import Weights, map_weights, published_shape
from tests.helpers.examples import run_examples

RNG = np.random.default_rng(0)
NAMES = {"dense.weight": "dense/kernel", "dense.bias": "dense/bias", "table.weight": "table/embedding"}
FAMILY = Family(names=lambda arch: NAMES, prefix="net.", unused=("head.",), cut=("table/embedding",))
SHAPES = {
    "dense/kernel": np.zeros((3, 2)),
    "dense/bias": np.zeros(2),
    "table/embedding": np.zeros((4, 3)),
    "random/kernel": np.zeros(1),  # of the model alone: it keeps its initial value
}


def published(**changes):
    """Weights with a head, some of them replaced, or left out where None; __ stands for a dot."""
    arrays = {
        "net.dense.weight": RNG.normal(size=(2, 3)),
        "net.dense.bias": RNG.normal(size=2),
        "net.table.weight": RNG.normal(size=(6, 3)),
        "head.weight": RNG.normal(size=(9, 9)),
    }
    arrays |= {name.replace("__", "."): value for name, value in changes.items()}
    return Weights({name: x for name, x in arrays.items() if x is not None}, "FILE")


def test_examples():
    assert run_examples(family) == 2


def test_weights_become_parameters():
    weights = published()
    parameters = map_weights(FAMILY, {}, weights, SHAPES)
    assert parameters.keys() == set(NAMES.values())
    assert {x.dtype for x in parameters.values()} == {np.dtype(np.float32)}
    arrays = {name: np.float32(x) for name, x in weights.arrays.items()}
    np.testing.assert_array_equal(parameters["dense/kernel"], arrays["net.dense.weight"].T)
    np.testing.assert_array_equal(parameters["dense/bias"], arrays["net.dense.bias"])
    np.testing.assert_array_equal(parameters["table/embedding"], arrays["net.table.weight"][:4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net__dense__bias": None}, "FILE: lacks dense.bias"),
        ({"net__more": np.ones(1)}, "FILE: has more, which the model here has not"),
        ({"net__dense__weight": np.ones((3, 2))}, "FILE: dense.weight is (3, 2), not (2, 3)"),
        ({"net__table__weight": np.ones((3, 3))}, "FILE: table.weight is (3, 3), not (4, 3)"),
        ({"net__table__weight": np.array(1.0)}, "FILE: table.weight is (), not (4, 3)"),
        ({"net__dense__bias": np.full(2, np.inf)}, "FILE: dense.bias holds other than finite real numbers"),
        ({"net__dense__bias": np.ones(2, int)}, "FILE: dense.bias holds other than finite real numbers"),
    ],
)
def test_wrong_weights_are_named(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        map_weights(FAMILY, {}, published(**changes), SHAPES)


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("attention/query/kernel", (8, 2, 4), (8, 8)),
        ("attention/query/bias", (2, 4), (8,)),
        ("attention/out/kernel", (2, 4, 6), (6, 8)),
        ("mlp/out/kernel", (16, 8), (8, 16)),
        ("patches/kernel", (4, 5, 3, 8), (8, 3, 4, 5)),
        ("words/embedding", (9, 8), (9, 8)),
    ],
)
def test_published_shapes(path, shape, expected):
    assert published_shape(path, shape) == expected


def test_uniter_is_a_bert_that_reads_regions():
    """By the same names below `uniter.`, so that a BERT starts it."""
    arch = {"layers": 2}
    uniter = FAMILIES["pair"]["uniter"].names(arch)
    bert = FAMILIES["text"]["bert"].names(arch)
    assert {f"uniter.{name}": path for name, path in bert.items()}.items() <= uniter.items()
    assert len(set(uniter.values())) == len(uniter)
