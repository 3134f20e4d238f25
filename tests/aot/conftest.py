"""Programs for other machines are compiled with optimisations, and are not cached."""

import pytest

from tests.helpers.compiling import optimised


@pytest.fixture(autouse=True)
def as_users_compile():
    with optimised(jax_enable_compilation_cache=False):
        yield
