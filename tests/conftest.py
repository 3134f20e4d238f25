"""Eight virtual devices, checked shapes, quick compilation; which tests are fast."""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Programs are tiny and run once: most of a test's time is their compilation. In the environment, so that
# processes that tests start compile in the same way. Nothing is cached: see `mesh.mesh_over`.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests.helpers.paths import ROOT

install_import_hook("jax_itm", "beartype.beartype")

# The same few examples each time; with --hypothesis-profile=long many, and different ones each time.
QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", max_examples=40, derandomize=True, **QUIET)
settings.register_profile("long", max_examples=5000, print_blob=True, **QUIET)
settings.load_profile("suite")

# Folders, files and tests, below tests/, that take more than a few seconds: `-m fast` leaves them out, and
# `-m slow` selects them. A test may also be marked with @pytest.mark.slow.
SLOW = (
    "aot/",
    "data/",
    "distributed/",
    "docs/",
    "end_to_end/",
    "evaluation/",
    "inference/",
    "launch/",
    "losses/",
    "methods/",
    "models/test_batch_norm.py",
    "models/test_encoders.py",
    "plots/",
    "pretrained/",
    "robustness/",
    "search/",
    "serve/",
    "test_study.py",
    "train/",
)
# Of these, what is quick and tells most: losses against loops and over devices, a step of training.
FAST = (
    "losses/test_errors.py",
    "losses/test_objectives.py",
    "losses/test_attention_alignment.py",
    "methods/test_dual_encoder.py::test_one_sgd_step_is_equal_on_one_and_eight_devices[sigmoid",
    "methods/test_terms.py::test_a_term_of_weight_0",
    "data/test_batches.py",
    "data/test_tokenizer.py",
    "search/test_nearest.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test as fast or slow."""
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        is_slow = name.startswith(SLOW) and not name.startswith(FAST)
        is_slow = is_slow or item.get_closest_marker("slow") is not None
        item.add_marker(pytest.mark.slow if is_slow else pytest.mark.fast)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data beside the project; skips the test where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data at ../shared/data")
    return folder
