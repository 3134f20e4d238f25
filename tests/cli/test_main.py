"""The command line answers quickly, in one line where something is wrong, and explains a config."""

import subprocess
import sys

import pytest

from jax_itm.cli.main import COMMANDS, main

CONFIG = """
from jax_itm.config import default

def get_config(arg="3"):
    config = default("info_nce")
    config.dim = 8 * int(arg)
    return config
"""
# Modules that take seconds to import.
HEAVY = ("jax", "flax", "tensorflow", "tensorflow_datasets", "orbax", "matplotlib", "ml_collections")


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("trian", 2), ("train", 2)])
def test_help_and_typos_are_answered_without_heavy_imports(argument, status):
    script = f"""
import sys
from jax_itm.cli.main import main
try:
    main([{argument!r}])
except SystemExit as ended:
    assert ended.code == {status}
assert not set({HEAVY}) & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert COMMANDS[command].HELP.split()[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "invalid choice: 'trian'"),
        (["describe", "scenes", "--splt", "val"], "--splt: not an option of describe"),
        (["evaluate", "--workdir", "run", "--config.dim=8"], "--config.dim=8: not an option of evaluate"),
        (["prepare", "scenes", "--config.dim=8"], "--config.dim=8: not an option of prepare"),
        (["prepare", "scenes", "--max_pixels", "0"], "--max_pixels: 0: must be a whole number, 1 or more"),
        (
            ["search", "--workdir", "r", "--images", "i", "a", "--top", "0"],
            "--top: 0: must be a whole",
        ),
        (["search", "--workdir", "r", "--images", "i", "a", "--top=-1"], "--top: -1: must be a whole"),
        (["study", "s.py", "--jobs", "1.5"], "--jobs: 1.5: must be a whole number, 1 or more"),
    ],
)
def test_unknown_commands_and_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_config_prints_every_field_with_its_source(tmp_path, capsys):
    file = tmp_path / "run.py"
    file.write_text(CONFIG)
    assert main(["config", str(file), "--config.batch_size=64"]) == 0
    fields = {line.split()[0]: line.split()[1:3] for line in capsys.readouterr().out.splitlines()}
    assert fields["config.dim"] == ["24", "file"]
    assert fields["config.batch_size"] == ["64", "override"]
    assert fields["config.seed"] == ["0", "default"]
    assert main(["config", f"{file}:5"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if "config.dim " in line] == [
        "40"
    ]


def test_config_refuses_what_train_would_refuse(tmp_path, capsys):
    file = tmp_path / "run.py"
    file.write_text(CONFIG)
    assert main(["config", str(file), "--config.dimm=8"]) == 2
    assert "config.dimm: no such field; did you mean 'dim'?" in capsys.readouterr().err
    assert main(["config", str(tmp_path / "none.py")]) == 2
    assert "none.py: no such file" in capsys.readouterr().err


def test_fields_whose_values_hold_spaces_reach_every_command(tmp_path, capsys):
    file = tmp_path / "run.py"
    file.write_text(CONFIG)
    own = ["--config.data.name=folder", f"--config.data.source={tmp_path / 'none'}"]
    assert main(["prepare", "--config", str(file), "--config.duration=2 epochs", *own]) == 2
    assert capsys.readouterr().err.startswith(f"jax_itm: --source {tmp_path / 'none'}: ")


def test_a_field_without_its_value_is_one_line(tmp_path, capsys):
    file = tmp_path / "run.py"
    file.write_text(CONFIG)
    assert main(["config", str(file), "--config.duration"]) == 2
    assert "--config.duration: needs its value after =" in capsys.readouterr().err


def test_another_broken_pipe_is_an_error(monkeypatch, capsys):
    def breaks(args, fields):
        raise BrokenPipeError("a reader has ended")

    monkeypatch.setattr(COMMANDS["report"], "run", breaks)
    assert main(["report", "runs/x", "--out", "x.png"]) == 2
    assert "a reader has ended" in capsys.readouterr().err


def test_output_that_nobody_reads_is_no_error(tmp_path):
    file = tmp_path / "run.py"
    file.write_text(CONFIG)
    command = f"set -o pipefail; {sys.executable} -m jax_itm config {file} | true"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert run.returncode in (0, 141) and not run.stderr
