"""`import jax_itm` is light: each name is imported when it is first used, with no more than it needs."""

import subprocess
import sys

import pytest

import jax_itm
from tests.helpers.paths import ROOT

HEAVY = ("jax", "flax", "optax", "tensorflow", "orbax", "grain", "matplotlib", "tokenizers")


def modules_after(statement: str) -> set[str]:
    """The top-level modules that a new interpreter has loaded after a statement."""
    command = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    finished = subprocess.run([sys.executable, "-c", command], capture_output=True, cwd=ROOT, check=True)
    return set(finished.stdout.decode().split())


@pytest.mark.parametrize(
    ("statement", "needed", "absent"),
    [
        ("import jax_itm", {"jax_itm"}, HEAVY),
        ("import jax_itm.metrics", {"numpy"}, HEAVY),
        ("from jax_itm import metrics; metrics.recall", {"numpy"}, HEAVY),
        ("import jax_itm.losses", {"jax"}, HEAVY[1:]),
        ("from jax_itm import Plan; Plan()", {"jax"}, HEAVY[1:]),
        ("import jax_itm.models", {"jax_itm"}, ("tensorflow", "orbax", "grain", "matplotlib")),
        ("from jax_itm import load", {"jax", "flax"}, ("tensorflow", "grain", "matplotlib")),
    ],
)
def test_what_an_import_loads(statement, needed, absent):
    loaded = modules_after(statement)
    assert needed <= loaded
    assert not loaded & set(absent)


def test_every_public_name_is_there():
    assert set(jax_itm.__all__) <= set(dir(jax_itm))
    for name in jax_itm.__all__:
        assert getattr(jax_itm, name) is not None
    with pytest.raises(AttributeError, match="module 'jax_itm' has no attribute 'lose'"):
        _ = jax_itm.lose
