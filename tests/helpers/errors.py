"""What a refusal must look like: one line, exit status 2, nothing left behind."""

import pytest

from jax_itm.data.preparation import prepare
from jax_itm.errors import UserError


def refuses(tmp_path, name, source, message):
    """`prepare` raises one line that matches, and leaves nothing behind."""
    with pytest.raises(UserError, match=message) as caught:
        prepare(name, tmp_path / "data", source)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def says(capsys, status: int, *parts: str):
    """One line on the error stream, with all of `parts`, and exit status 2."""
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("jax_itm: ") and error.count("\n") == 1
    for part in parts:
        assert part in error
