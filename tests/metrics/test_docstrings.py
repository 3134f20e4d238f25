"""The examples in the docstrings are true."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["", ".counter", ".ranking", ".reranking", ".retrieval"])
def test_examples(name):
    result = doctest.testmod(importlib.import_module(f"jax_itm.metrics{name}"))
    assert result.attempted and not result.failed
