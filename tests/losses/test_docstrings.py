"""Every public function of jax_itm.losses describes its arguments, and its example runs."""

import doctest
import inspect
import re

import pytest

from jax_itm import losses
from tests.helpers.compiling import optimised

FUNCTIONS = [name for name in losses.__all__ if inspect.isfunction(inspect.unwrap(getattr(losses, name)))]
SAME_ARGUMENTS = {"triplet_terms", "spatial_terms", "decoupling_terms", "sample_distributions"}


@pytest.fixture(autouse=True)
def as_users_compile():
    with optimised():
        yield


def run(text, name):
    examples = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(examples, out=report.append)
    assert examples.examples and not runner.failures, "".join(report)


def test_the_example_of_the_package():
    run(losses.__doc__, "jax_itm.losses")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_each_function(name):
    run(inspect.getdoc(getattr(losses, name)), name)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "l2_normalise"])
def test_every_argument_is_described(name):
    text = inspect.getdoc(getattr(losses, name))
    assert "docs/methods/" in text or name in SAME_ARGUMENTS | {"column_moments"}
    assert "Returns:" in text
    if name in SAME_ARGUMENTS:
        assert "the arguments are the same" in text
        return
    for argument in inspect.signature(getattr(losses, name)).parameters:
        assert re.search(rf"\n    (\w+, )*{argument}(, \w+)*: ", text), argument
