"""The command `compile`: its table for a small run, and what it refuses."""

import pytest

from jax_itm.cli import compile as command
from jax_itm.cli.main import main

CONFIG = """
from jax_itm.config import default

def get_config():
    config = default("sigmoid")
    config.dim, config.batch_size, config.data.max_regions, config.data.max_words = 128, 64, 8, 8
    config.image.pooling = config.text.pooling = "mean"
    config.text.name = "bow"
    config.evaluate.batch_size = 64
    return config
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "small.py"
    file.write_text(CONFIG)
    return str(file)


def test_the_table_of_a_small_run(config, capsys):
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed: pip install -e .[aot]")
    assert main(["compile", "--config", config, "--topology", "v5e:2x2", "--region_dim", "16"]) == 0
    out = capsys.readouterr().out
    assert "4 chips of 15.75 GiB" in out and "estimates" in out
    for program in ("training step", "encoding 64 images", "encoding 64 texts", "scoring 64 x 64"):
        row = next(line for line in out.splitlines() if line.startswith(f"| {program} |"))
        assert row.count("|") == 9
    training = next(line for line in out.splitlines() if line.startswith("| training step |"))
    assert float(training.split("|")[5]) > 0  # the encoders' estimate
    assert "| all-reduce |" in out  # of the gradients


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topology", "v9:2x2"], "--topology v9:2x2: must be a generation (v4, v5e"),
        (["--config.batch_size=30"], "config.batch_size=30: not divisible by 32 devices"),
        (["--config.speed=1"], "config.speed: no such field"),
    ],
)
def test_what_cannot_be_compiled_is_one_line(config, capsys, options, message):
    if "batch_size" in options[0]:
        pytest.importorskip("libtpu", reason="the TPU compiler is not installed: pip install -e .[aot]")
    assert main(["compile", "--config", config, *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_program_that_does_not_fit_is_one_line(monkeypatch, capsys, config):
    def run(args, overrides):
        raise RuntimeError(
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm."
            " Used 21.20G of 15.75G hbm. Exceeded hbm capacity by 5.45G."
        )

    monkeypatch.setattr(command, "run", run)
    assert main(["compile", "--config", config]) == 2
    err = capsys.readouterr().err
    assert "too little memory (21.20G of 15.75G): set config.remat=True" in err and err.count("\n") == 1
