"""Searching a folder in which not every file is a picture, and an index."""

import json

import pytest
from PIL import Image

from jax_itm.cli.main import main
from tests.helpers.errors import says
from tests.helpers.pictures import picture, truncated_jpeg
from tests.helpers.searching import CAPTIONS, untrained_clip, write_pictures


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """An untrained CLIP."""
    return untrained_clip(tmp_path_factory.mktemp("clip"))


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


@pytest.fixture(scope="module")
def indexed(run, tmp_path_factory):
    """A folder with pictures, and an index of them with captions."""
    place = tmp_path_factory.mktemp("indexed")
    images = write_pictures(place / "pictures", 7)
    (images / "cut.jpg").write_bytes(truncated_jpeg())
    (place / "captions.txt").write_text("\n".join(CAPTIONS))
    assert main(index(run, place, "--captions", str(place / "captions.txt"))) == 0
    return place


def index(run, place, *options) -> list[str]:
    pictures, out = str(place / "pictures"), str(place / "index")
    return ["index", "--workdir", run, "--images", pictures, "--out", out, *options]


def found(capsys, *arguments) -> list[list[str]]:
    """Score and name of each line of a search in an index."""
    capsys.readouterr()
    assert main(["search", *map(str, arguments)]) == 0
    return [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]


def test_index_says_what_it_did(run, indexed, capsys):
    assert main(index(run, indexed)) == 0
    out, error = capsys.readouterr()
    assert out.startswith("7 pictures: 0 added, 0 removed, 7 as before, 1 left out; 6 captions; by step ")
    assert error.startswith("left out: ") and "cut.jpg: not a readable image" in error


def test_an_index_gives_what_its_folder_gives(run, indexed, capsys):
    by_folder = found(capsys, "--workdir", run, "--images", indexed / "pictures", "a dog")
    by_index = found(capsys, "--index", indexed / "index", "a dog")
    assert [name for _, name in by_index] == [name for _, name in by_folder]
    assert [float(s) for s, _ in by_index] == pytest.approx([float(s) for s, _ in by_folder], abs=2e-4)


def test_a_picture_finds_itself_and_captions(indexed, capsys):
    image = indexed / "pictures" / "a" / "002.png"
    lines = found(capsys, "--index", indexed / "index", "--image", image, "--top", "3")
    assert lines[0] == ["1.0000", str(image)] and len(lines) == 3
    captions = found(capsys, "--index", indexed / "index", "--image", image, "--to", "captions")
    assert {text for _, text in captions} == set(CAPTIONS)


@pytest.mark.parametrize("place", ["--index", "--images"])
def test_json_and_a_sheet(run, indexed, place, capsys):
    sheet = indexed / "sheet.png"
    where = [place, indexed / ("index" if place == "--index" else "pictures")]
    [line] = found(capsys, "--workdir", run, *where, "a dog", "--json", "--sheet", sheet, "--top", "6")
    answer = json.loads(" ".join(line))
    assert answer["query"] == {"caption": "a dog"} and len(answer["results"]) == 6
    assert all(set(row) == {"score", "path"} for row in answer["results"])
    scores = [row["score"] for row in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG" and drawn.width > 800 and drawn.height > 400
    sheet.unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "d"], "give a caption, or --image FILE"),
        (["--index", "i", "a dog", "--image", "x.png"], "give a caption, or --image FILE"),
        (["--images", "d", "--image", "x.png"], "--image: searches an index"),
        (["--images", "d", "a dog"], "--images: needs the run, --workdir RUN"),
        (["--index", "i", "a dog", "--to", "captions"], "--to captions: needs --image"),
        (["--index", "i", "--image", "x", "--to", "captions", "--sheet", "s.png"], "--sheet: draws pictures"),
        (["--index", "i", "a dog", "--sheet", "s.jpg"], "--sheet s.jpg: the figure is a .png"),
        (["--index", "i", "a dog", "--sheet", "none/s.png"], "--sheet none/s.png: there is no folder none"),
        (["--index", "nowhere", "a dog"], "nowhere: no index there; make one"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message, capsys):
    says(capsys, main(["search", *arguments]), message)


def test_an_index_refuses(run, indexed, tmp_path, capsys):
    where = ["search", "--index", str(indexed / "index")]
    says(capsys, main([*where, " \t"]), "caption: empty caption")
    says(capsys, main([*where, "a dog", "--first", "-1"]), "first=-1: must be 0 or more")
    says(capsys, main([*where, "--image", str(indexed / "pictures" / "cut.jpg")]), "not a readable image")
    write_pictures(tmp_path / "pictures", 2)
    assert main(index(run, tmp_path)) == 0
    capsys.readouterr()
    nothing = ["search", "--index", str(tmp_path / "index"), "--to", "captions"]
    says(capsys, main([*nothing, "--image", str(tmp_path / "pictures" / "a" / "000.png")]), "has no captions")
