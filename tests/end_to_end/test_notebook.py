"""The notebooks run from top to bottom: on runs that were just trained, and from data to a report."""

import re
import subprocess
import sys

import pytest

from jax_itm.cli.main import main
from jax_itm.data.scenes import render
from tests.helpers import picture_run, tiny_run
from tests.helpers.notebooks import has, printed, read_notebook, run_notebook

SMALL = ["batch_size=16", "dim=16", "duration=4 steps", "evaluate.every=4 steps", "evaluate.batch_size=16"]
SMALL += ["text.name=bow", "text.pooling=mean", "image.pooling=mean", "image.layers=1"]  # quick to compile
CROSS_ENCODER = """
from jax_itm.config import default

def get_config():
    config = default("iais")
    config.name, config.batch_size, config.duration = "cross", 8, "2 steps"
    config.uniter.hidden, config.uniter.layers, config.uniter.heads = 16, 1, 2
    config.mining.pool, config.mining.anchors, config.mining.hardest = 4, 4, 1
    config.data.name, config.data.validation, config.data.max_words = "precomp", "dev", 8
    config.data.max_regions, config.data.min_count = 3, 1
    config.evaluate.every, config.evaluate.batch_size = "2 steps", 16
    return config
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Prepared scenes, fewer than usual."""
    place, splits = tmp_path_factory.mktemp("scenes"), dict(render.SPLITS)
    render.SPLITS.update(dict.fromkeys(render.SPLITS, 32))
    assert main(["prepare", "scenes", "--data_dir", str(place / "data")]) == 0
    render.SPLITS.update(splits)
    return place


def train(place, modality):
    overrides = [f"--config.{field}" for field in [*SMALL, f"data.data_dir={place}/data"]]
    config = f"configs/dias_scenes.py:modality={modality}"
    assert main(["train", "--config", config, "--workdir", str(place / modality), *overrides]) == 0
    return place / modality


@pytest.mark.parametrize("modality", ["regions", "pixels"])
def test_restore(place, modality, monkeypatch):
    outputs = run_notebook(monkeypatch, "restore", JAX_ITM_WORKDIR=train(place, modality))
    assert "on 1 cpu" in printed(outputs) and f"a dual encoder of {modality}" in printed(outputs)
    assert has(outputs, "image/png")
    assert "(200, 1000)" in outputs[-1]["text"]


def test_restore_searches_in_a_folder_of_pictures(place, tmp_path, monkeypatch):
    from PIL import Image

    workdir = place / "pixels" if (place / "pixels").exists() else train(place, "pixels")
    for record in render.generate("val", 6, seed=0):
        Image.fromarray(record["image"]).save(tmp_path / f"{record['name']}.png")
    outputs = run_notebook(monkeypatch, "restore", JAX_ITM_WORKDIR=workdir, JAX_ITM_IMAGES=tmp_path)
    assert has(outputs, "image/png")
    assert "6 images, 0 captions" in printed(outputs)  # the folder's, no scenes


def test_restore_shows_the_pictures_of_a_runs_own_data(tmp_path, monkeypatch):
    picture_run.trained(tmp_path)
    outputs = run_notebook(monkeypatch, "restore", JAX_ITM_WORKDIR=tmp_path / "run")
    assert "a dual encoder of pixels" in printed(outputs) and "12 images, 60 captions" in printed(outputs)
    assert has(outputs, "image/png")
    assert "(12, 60)" in outputs[-1]["text"]


def test_restore_takes_a_cross_encoder_and_regions_without_pictures(tmp_path, monkeypatch):
    tiny_run.prepared(tmp_path, train=8, dev=4, test=4)
    (tmp_path / "cross.py").write_text(CROSS_ENCODER)
    command = ["train", "--config", f"{tmp_path}/cross.py", "--workdir", str(tmp_path / "run")]
    assert main([*command, f"--config.data.data_dir={tmp_path}/data"]) == 0
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    outputs = run_notebook(monkeypatch, "restore", JAX_ITM_WORKDIR=tmp_path / "run", JAX_ITM_DATA=moved)
    assert "a cross-encoder of regions" in printed(outputs) and "4 images, 20 captions" in printed(outputs)
    assert has(outputs, "image/png")
    assert "(4, 20)" in outputs[-1]["text"]


def test_quickstart(place, monkeypatch):
    outputs = run_notebook(monkeypatch, "quickstart", JAX_ITM_PLACE=place, JAX_ITM_DURATION="4 steps")
    assert "i2t R@1" in printed(outputs) and "scenes test, 32 images, 160 captions" in printed(outputs)
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 2
    frame = outputs[-1]["data"]["text/html"]
    page = (place / "report.html").read_text()
    assert "srcdoc" in frame and "&lt;svg" in frame and 'id="left-out"' not in page
    assert (place / "run" / "result.json").exists()


def test_own_loop(monkeypatch):
    outputs = run_notebook(monkeypatch, "own_loop", JAX_ITM_STEPS=8)
    assert "8 devices: cpu" in printed(outputs)
    difference = re.search(r"largest difference of a loss: (\S+)", printed(outputs))
    assert difference and float(difference[1]) < 1e-4
    steps = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+)$", printed(outputs), flags=re.MULTILINE)
    assert [step for step, _, _ in steps] == ["0", "2", "4", "7"]
    assert float(steps[-1][1]) < float(steps[0][1])
    assert has(outputs, "image/png")


@pytest.mark.parametrize("name", ["restore", "quickstart", "own_loop"])
def test_the_first_cell_installs_what_is_missing(name, monkeypatch):
    cell = next(cell.source for cell in read_notebook(name).cells if cell.cell_type == "code")
    commands = []
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    exec(cell, {})  # here it is installed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="say in REPOSITORY where git can clone it from"):
        exec(cell, {})
    assert not commands
    exec(cell.replace('REPOSITORY = ""', 'REPOSITORY = "https://host/jax_itm"'), {})
    assert commands[0][-1] == "jax_itm[notebook,report] @ git+https://host/jax_itm"


def test_search_finds_pictures_in_a_folder(place, tmp_path, capsys):
    from PIL import Image

    workdir = place / "pixels"
    if not workdir.exists():
        train(place, "pixels")
    for record in render.generate("val", 3, seed=0):
        Image.fromarray(record["image"]).save(tmp_path / f"{record['name']}.png")
    capsys.readouterr()
    arguments = ["search", "--workdir", str(workdir), "--images", str(tmp_path)]
    assert main([*arguments, "a red circle"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    (tmp_path / "cut.png").write_bytes((tmp_path / "val-00000.png").read_bytes()[:600])
    assert main([*arguments, "a red circle"]) == 0
    out, error = capsys.readouterr()
    assert "1 of 4 left out" in error and "cut.png: not a readable image" in error
    assert error.count("\n") == 1 and len(out.splitlines()) == 3


def test_the_command_says_what_it_takes():
    run = [sys.executable, "-m", "jax_itm"]
    shown = subprocess.run([*run, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "prepare" in shown.stdout
    wrong = subprocess.run([*run, "evaluate", "--workdir", "x", "--slpit=y"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "--slpit=y: not an option of evaluate" in wrong.stderr
