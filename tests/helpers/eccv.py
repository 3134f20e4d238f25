"""The metrics of the package `eccv-caption`, an oracle."""

import warnings
from typing import Any

import pytest


def eccv_metrics() -> Any:
    """Its class `Metrics` with its ground truth; skips the test where the package is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two packages that make it faster
        package = pytest.importorskip("eccv_caption", reason="pip install -e .[eccv]")
    return package.Metrics()
