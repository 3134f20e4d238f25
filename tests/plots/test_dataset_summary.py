"""The summary of a data set: what `prepare` and `describe` print, and the contact sheet."""

import re

import numpy as np

from jax_itm.cli.main import main
from jax_itm.data.images import read_picture
from tests.helpers.errors import says
from tests.helpers.pictures import picture
from tests.helpers.precomp import write_precomp


def flat(capsys) -> str:
    return re.sub(" +", " ", capsys.readouterr().out)


def folder(raw, count=3):
    raw.mkdir()
    rows = ["path,caption,split"]
    for k in range(count):
        picture(k, (20 + k, 12)).save(raw / f"{k}.png")
        split = "val" if k == 2 else "train"
        rows += [f"{k}.png,a $dog$ of {'very ' * k}many words,{split}"] * (k + 1)
    (raw / "captions.csv").write_text("\n".join(rows) + "\n")
    return raw


def test_prepare_and_describe_print_the_summary(tmp_path, capsys):
    raw, data = folder(tmp_path / "raw"), str(tmp_path / "data")
    assert main(["prepare", "folder", "--source", str(raw), "--data_dir", data]) == 0
    shown = flat(capsys)
    assert shown.startswith(f"folder in {data}/folder/1.0.0, from {raw}\n")
    assert "split images captions captions an image words width height (least/median/most)\n" in shown
    assert "train 2 3 1/2/2 5/6/6 20/21/21 12\n" in shown
    assert "val 1 3 3 7 22 12\n" in shown and "holds image\n" in shown
    out = tmp_path / "sheet.png"
    assert main(["describe", "folder", "--data_dir", data, "--out", str(out)]) == 0
    assert flat(capsys) == shown + f"{out}\n"
    pixels = read_picture(out)
    assert pixels.std() > 10 and pixels.shape[1] > 1000


def test_boxes_are_drawn_where_no_pictures_are_held(tmp_path, capsys):
    write_precomp(tmp_path / "raw", images=15)
    data, out = str(tmp_path / "data"), str(tmp_path / "sheet.png")
    assert main(["prepare", "precomp", "--source", str(tmp_path / "raw"), "--data_dir", data]) == 0
    shown = flat(capsys)
    assert "train 15 75 5 5 3\n" in shown and "first image's regions (3, 8)" in shown
    assert main(["prepare", "precomp", "--data_dir", data]) == 0
    assert flat(capsys) == shown + " was there already\n"
    assert main(["describe", "precomp", "--data_dir", data, "--out", out]) == 0
    blue = np.all(np.abs(read_picture(out).astype(int) - (0, 0x72, 0xB2)) < 60, axis=-1)
    assert blue.sum() > 12 * 500  # the outlines of a dozen images' boxes


def test_describe_refuses(tmp_path, capsys):
    write_precomp(tmp_path / "raw")
    (tmp_path / "raw" / "boxes.npy").unlink()
    data = str(tmp_path / "data")
    command = ["describe", "precomp", "--data_dir", data]
    says(capsys, main(command), "precomp is not prepared in")
    assert main(["prepare", "precomp", "--source", str(tmp_path / "raw"), "--data_dir", data]) == 0
    out = str(tmp_path / "sheet.png")
    says(capsys, main([*command, "--out", out]), "sheet.png: precomp holds neither pictures nor boxes")
    says(capsys, main([*command, "--out", "sheet.jpg"]), "--out sheet.jpg: the figure is a .png")
    assert not (tmp_path / "sheet.png").exists()


def test_describe_names_the_missing_images_of_a_published_set(tmp_path, capsys):
    raw, data = folder(tmp_path / "raw"), str(tmp_path / "data")
    names = "".join(f"{k}.jpg#{c}\ta dog\n" for k in range(3) for c in range(5))
    (raw / "results_20130124.token").write_text(names)
    for k, split in enumerate(("train", "val", "test")):
        picture(k).save(raw / f"{k}.jpg")
        (raw / f"{split}.txt").write_text(f"{k}\n")
    assert main(["prepare", "flickr30k", "--source", str(raw), "--data_dir", data]) == 0
    shown = flat(capsys)
    assert ", splits: lists\n" in shown and "train: 1 images, the published split has 29,783\n" in shown
