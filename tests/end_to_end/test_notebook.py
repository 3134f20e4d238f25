"""The notebook runs from top to bottom on a run that was just trained on scenes."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from jax_itm.cli.main import main
from jax_itm.data.scenes import render

NOTEBOOK = Path("launch/restore.ipynb")
SMALL = ["batch_size=16", "dim=16", "duration=4 steps", "evaluate.every=4 steps", "evaluate.batch_size=16"]
SMALL += ["text.name=bow", "text.pooling=mean", "image.pooling=mean", "image.layers=1"]  # quick to compile


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Prepared scenes, fewer than usual."""
    place, splits = tmp_path_factory.mktemp("scenes"), dict(render.SPLITS)
    render.SPLITS.update(dict.fromkeys(render.SPLITS, 24))
    assert main(["prepare", "scenes", "--data_dir", str(place / "data")]) == 0
    render.SPLITS.update(splits)
    return place


def train(place, modality):
    overrides = [f"--config.{field}" for field in [*SMALL, f"data.data_dir={place}/data"]]
    config = f"configs/dias_scenes.py:modality={modality}"
    assert main(["train", "--config", config, "--workdir", str(place / modality), *overrides]) == 0
    return place / modality


@pytest.mark.parametrize("modality", ["regions", "pixels"])
def test_the_notebook_runs(place, modality, monkeypatch):
    outputs = run_notebook(monkeypatch, JAX_ITM_WORKDIR=train(place, modality))
    assert any("on 1 cpu" in out.get("text", "") for out in outputs)
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert "(200, 1000)" in outputs[-1]["text"]


def run_notebook(monkeypatch, **variables):
    for name, value in (variables | {"XLA_FLAGS": "", "PYTHONPATH": os.getcwd()}).items():
        monkeypatch.setenv(name, str(value))  # one device, where training had eight
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return [out for cell in notebook.cells for out in cell.get("outputs", [])]


def test_the_notebook_searches_in_a_folder_of_pictures(place, tmp_path, monkeypatch):
    from PIL import Image

    workdir = place / "pixels" if (place / "pixels").exists() else train(place, "pixels")
    for record in render.generate("val", 6, seed=0):
        Image.fromarray(record["image"]).save(tmp_path / f"{record['name']}.png")
    outputs = run_notebook(monkeypatch, JAX_ITM_WORKDIR=workdir, JAX_ITM_IMAGES=tmp_path)
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert any("(6, " in str(out.get("data", "")) for out in outputs)  # the folder's, no scenes
    assert not any("read only" in out.get("text", "") for out in outputs)


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
