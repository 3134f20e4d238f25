"""The launchers beside stand-ins for what they call."""

import pytest

from tests.helpers.launchers import Sandbox


@pytest.fixture
def sandbox(tmp_path) -> Sandbox:
    return Sandbox(tmp_path)
