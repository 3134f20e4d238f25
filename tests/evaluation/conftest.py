"""One run on pictures for all tests of this folder."""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers.picture_run import trained


class PictureRun(NamedTuple):
    """Where it is, and the captions of its pictures by id."""

    place: Path
    captions: dict[str, str]


@pytest.fixture(scope="session")
def picture_run(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    return PictureRun(place, trained(place))
