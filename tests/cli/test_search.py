"""Searching a folder in which not every file is a picture."""

import pytest

from jax_itm.cli.main import main
from tests.helpers.errors import says
from tests.helpers.golden_encoders import clip_with
from tests.helpers.pictures import picture, truncated_jpeg


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """An untrained CLIP."""
    folder = tmp_path_factory.mktemp("clip")
    clip_with(folder)
    run = str(folder / "run")
    assert main(["convert", "clip", str(folder), run]) == 0
    return run


def search(run, folder, *options) -> int:
    return main(["search", "--workdir", run, "--images", str(folder), "a dog", *options])


def test_pictures_that_cannot_be_read_are_left_out_and_said(run, tmp_path, capfd):
    for k in range(3):
        picture(k).save(tmp_path / f"{k}.jpg")
    (tmp_path / "._1.jpg").write_bytes(b"\0\5\26\7 of a Mac")
    (tmp_path / "cut.jpg").write_bytes(truncated_jpeg())
    (tmp_path / "z.png").write_bytes(b"")
    capfd.readouterr()
    assert search(run, tmp_path) == 0
    out, error = capfd.readouterr()
    assert {line.split("/")[-1] for line in out.splitlines()} == {"0.jpg", "1.jpg", "2.jpg"}
    assert error.startswith("3 of 6 left out: ") and error.count("\n") == 1
    assert "._1.jpg: not a readable image" in error and "cut.jpg" in error and error.endswith("..\n")
    assert search(run, tmp_path, "--top", "1") == 0
    [best] = capfd.readouterr().out.splitlines()
    assert best == out.splitlines()[0]


def test_one_that_cannot_be_read(run, tmp_path, capfd):
    picture(1).save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes(truncated_jpeg())
    assert search(run, tmp_path) == 0
    error = capfd.readouterr().err
    assert error.startswith(f"1 of 2 left out: {tmp_path}/cut.jpg: not a readable image")
    assert error.count("\n") == 1


def test_a_folder_without_a_readable_picture_is_an_error(run, tmp_path, capsys):
    (tmp_path / "cut.jpg").write_bytes(truncated_jpeg())
    says(capsys, search(run, tmp_path), "cut.jpg: not a readable image")
