"""The examples in the docstrings are true."""

import doctest
import importlib

import pytest

MODULES = (
    "breakdown",
    "choices",
    "counter",
    "hubness",
    "judgements",
    "ranking",
    "relevance",
    "reranking",
    "retrieval",
)


@pytest.mark.parametrize("name", ["", *map(".{}".format, MODULES)])
def test_examples(name):
    result = doctest.testmod(importlib.import_module(f"jax_itm.metrics{name}"))
    assert result.attempted and not result.failed
