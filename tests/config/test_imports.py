"""A loss term of one's own, known to a run through `config.imports` alone."""

import os
import subprocess
import sys

import pytest

from jax_itm.config import default, explain, from_json, read, to_json
from jax_itm.config.loss_fields import LOSSES
from jax_itm.errors import UserError
from tests.helpers.paths import ROOT

MODULE = """
import jax.numpy as jnp
from jax_itm.config.fields import Field
from jax_itm.methods import loss_term

@loss_term("my_term", {"t": Field(2.0, "sharpness", above=0)}, help="mine")
def my_term(inputs):
    return jnp.mean(inputs.image.embedding) * inputs.options.t
"""
CONFIG = """
from jax_itm.config import default

def get_config(imports=""):
    config = default("info_nce")
    config.imports = (imports,) if imports else ()
    return config
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_terms.py").write_text(MODULE)
    (tmp_path / "run.py").write_text(CONFIG)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "options"), [("run.py", ["--config.imports=('my_terms',)"]), ("run.py:my_terms", [])]
)
@pytest.mark.slow
def test_the_command_sets_the_fields_of_an_imported_term(folder, file, options):
    """In a process of its own: an override, or the file, names the module."""
    command = [sys.executable, "-m", "jax_itm", "config", file, *options, "--config.losses.my_term.weight=1"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{folder}"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    fields = {line.split()[0]: line.split()[1:3] for line in run.stdout.splitlines()}
    assert fields["config.losses.my_term.weight"] == ["1.0", "override"]
    assert fields["config.losses.my_term.t"] == ["2.0", "default"]
    assert fields["config.imports"][-1] == ("override" if options else "file")


def test_a_term_that_the_file_does_not_know_gets_its_defaults(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    overrides = ["--config.losses.my_term.t=3", "--config.imports=('my_terms',)"]  # in any order
    try:
        config = read(str(folder / "run.py"), overrides)
        assert config.losses.my_term.t == 3.0 and config.losses.my_term.weight == 0.0
        assert config.is_locked and from_json(to_json(config)) == config
        rows = {row.name: row.source for row in explain(str(folder / "run.py"), overrides)}
        assert rows["losses.my_term.t"] == "override" and rows["losses.my_term.start"] == "default"
    finally:
        from jax_itm.methods.terms import TERMS

        del TERMS["my_term"], LOSSES["my_term"], sys.modules["my_terms"]
    assert "my_term" not in default("info_nce").losses


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        ("('no_such_module',)", "config.imports: 'no_such_module' cannot be imported"),
        ("my_terms", "config.imports='my_terms': must be a tuple of names of modules"),
    ],
)
def test_what_cannot_be_imported_is_one_line(folder, imports, message):
    with pytest.raises(UserError, match=message):
        read(str(folder / "run.py"), [f"--config.imports={imports}", "--config.losses.my_term.weight=1"])


def test_a_saved_run_is_read_where_another_term_is_registered():
    from jax_itm.config import default, from_json, to_json
    from jax_itm.config.field import weight
    from jax_itm.config.loss_fields import LOSSES

    saved = to_json(default("info_nce"))
    LOSSES["registered_later"] = {"weight": weight(0.0, "of the term")}
    try:
        assert from_json(saved).losses.registered_later.weight == 0.0
    finally:
        del LOSSES["registered_later"]
    assert "registered_later" not in from_json(saved).losses
