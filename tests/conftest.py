"""Eight virtual devices, checked shapes, a persistent compilation cache."""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

install_import_hook("jax_itm", "beartype.beartype")

# The same few examples each time; --hypothesis-profile=long: many, and others each time.
QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", max_examples=40, derandomize=True, **QUIET)
settings.register_profile("long", max_examples=5000, print_blob=True, **QUIET)
settings.load_profile("suite")


@pytest.fixture
def real_data() -> Path:
    """The folder of real data beside the project; skips where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data at ../shared/data")
    return folder
