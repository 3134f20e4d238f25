"""Preparing data sets from each layout, reading them back, and refusing what is wrong."""

import json
import pickle
import socket

import numpy as np
import pytest
from PIL import Image

from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.data.scenes import render
from jax_itm.errors import UserError
from tests.helpers.errors import refuses
from tests.helpers.pictures import karpathy, picture, replace_unnoticed, truncated_jpeg, write_folder
from tests.helpers.precomp import BOXES, write_precomp


def test_precomp_round_trip(tmp_path):
    regions = write_precomp(tmp_path / "raw")
    facts = prepare("precomp", tmp_path / "data", tmp_path / "raw")
    assert facts["splits"]["train"] == {"images": 4, "captions": 20}
    assert facts["regions"] == (3, 8) and not facts["reused"]
    for split in ("train", "dev"):
        opened = open_split("precomp", tmp_path / "data", split, "regions")
        assert (opened.name, opened.split, opened.modality) == ("precomp", split, "regions")
        assert len(opened) == 4 and opened.region_dim == 8 and opened.has_boxes
        np.testing.assert_array_equal(opened.caption_image, np.repeat(np.arange(4), 5))
        assert opened.caption_image.dtype == np.int32
        lines = (tmp_path / "raw" / f"{split}_caps.txt").read_text().splitlines()
        assert opened.captions() == lines
        for i in range(4):
            record = opened.record(i)
            assert record["captions"] == lines[5 * i : 5 * i + 5]
            assert record["regions"].dtype == np.float16
            np.testing.assert_array_equal(record["regions"], regions[split][i])
            np.testing.assert_array_equal(record["boxes"], BOXES)
    with pytest.raises(UserError, match="has no pictures"):
        opened.picture(0)
    with pytest.raises(UserError, match="no phrases"):
        opened.phrases(0)


def test_precomp_repeated_rows_are_one_image(tmp_path):
    regions = write_precomp(tmp_path / "raw", ("test",), images=3, repeat=5, ids=False)
    (tmp_path / "raw" / "boxes.npy").unlink()
    facts = prepare("precomp", tmp_path / "data", tmp_path / "raw")
    assert facts["splits"] == {"test": {"images": 3, "captions": 15}}
    split = open_split("precomp", tmp_path / "data", "test", "regions")
    np.testing.assert_array_equal(split.record(2)["regions"], regions["test"][2])
    assert split.record(2)["captions"][0] == "test image 2 caption 0"
    assert not split.has_boxes and not split.record(0)["boxes"].any()


def test_precomp_testall_is_a_split_and_other_files_are_named(tmp_path):
    write_precomp(tmp_path / "raw", ("train", "test", "testall", "test_5k", "restval"), images=3)
    (tmp_path / "raw" / "dev_caps.txt").write_text("no features\n")
    (tmp_path / "raw" / "readme.txt").write_text("not of a split\n")
    summary = prepare("precomp", tmp_path / "data", tmp_path / "raw")
    assert list(summary["splits"]) == ["train", "test", "testall"]
    assert open_split("precomp", tmp_path / "data", "testall", "regions").captions()[0].startswith("testall")
    notes = summary["notes"]
    assert "dev_caps.txt: not taken, no dev_ims.npy" in notes
    expected = {
        f"{split}_{end}" for split in ("restval", "test_5k") for end in ("ims.npy", "caps.txt", "ids.txt")
    }
    assert {note.split(":")[0] for note in notes} == expected | {"dev_caps.txt"}
    assert all("the splits are train, dev" in note for note in notes if not note.startswith("dev"))


def test_precomp_one_caption_an_image(tmp_path):
    write_precomp(tmp_path / "raw", ("test",), images=10, each=1)
    facts = prepare("precomp", tmp_path / "data", tmp_path / "raw")
    assert facts["splits"]["test"] == {"images": 10, "captions": 10}


def test_val_opens_dev_and_unknown_splits_are_refused(tmp_path):
    write_precomp(tmp_path / "raw")
    prepare("precomp", tmp_path / "data", tmp_path / "raw")
    assert open_split("precomp", tmp_path / "data", "val", "regions").split == "dev"
    with pytest.raises(UserError, match="no split 'test'; there are train, dev"):
        open_split("precomp", tmp_path / "data", "test", "regions")
    with pytest.raises(UserError, match="no 'pixels' to read; it has regions"):
        open_split("precomp", tmp_path / "data", "train", "pixels")
    with pytest.raises(UserError, match="python -m jax_itm prepare folder --source DIR"):
        open_split("folder", tmp_path / "data", "train", "pixels")
    with pytest.raises(UserError, match="data set 'precmp': must be one of"):
        open_split("precmp", tmp_path / "data", "train", "regions")


def test_prepare_again_reuses_the_same_source_only(tmp_path):
    for name in ("raw", "other"):
        write_precomp(tmp_path / name)
    prepare("precomp", tmp_path / "data", tmp_path / "raw")
    assert prepare("precomp", tmp_path / "data", tmp_path / "raw")["reused"]
    assert prepare("precomp", tmp_path / "data")["reused"]
    with pytest.raises(UserError, match=r"was prepared from .*raw; choose another --data_dir"):
        prepare("precomp", tmp_path / "data", tmp_path / "other")


def changed_precomp(folder):
    """The same captions, and features of the same shape and other values."""
    file = folder / "dev_ims.npy"
    np.save(file, np.load(file) + np.float32(1))


def changed_caption(folder):
    file = folder / "train_caps.txt"
    file.write_text(file.read_text().replace("caption 3", "caption 4", 1))  # as long as before


@pytest.mark.parametrize("change", [changed_precomp, changed_caption])
def test_prepare_again_notices_a_changed_source(tmp_path, change, monkeypatch):
    monkeypatch.setattr("jax_itm.data.preparation.LARGE_FILE", 1)  # these features are small
    raw = tmp_path / "raw"
    write_precomp(raw)
    prepare("precomp", tmp_path / "data", raw)
    (raw / "train_caps.txt").touch()  # a copy has another date
    assert prepare("precomp", tmp_path / "data", raw)["reused"]
    change(raw)
    with pytest.raises(UserError, match=r"raw: has changed since .*1\.0\.0 was prepared from it; remove"):
        prepare("precomp", tmp_path / "data", raw)
    assert prepare("precomp", tmp_path / "data")["reused"]  # the prepared set is what it was
    raw.rename(tmp_path / "elsewhere")
    assert prepare("precomp", tmp_path / "data", raw)["reused"]


@pytest.mark.parametrize("what", ["caption", "picture", "picture of equal size and date", "one more"])
def test_prepare_again_notices_a_changed_folder(tmp_path, what):
    folder = write_folder(tmp_path / "raw")
    table = folder / "a.csv"
    table.write_text("path,caption\n0.jpg,A dog\n1.jpg,A cat\n")
    prepare("folder", tmp_path / "data", folder)
    picture(9).save(folder / "images" / "unused.jpg")
    assert prepare("folder", tmp_path / "data", folder)["reused"]
    if what == "caption":
        table.write_text("path,caption\n0.jpg,A cow\n1.jpg,A cat\n")
    elif what == "picture":
        picture(5, (30, 30)).save(folder / "images" / "1.jpg")
    elif what == "picture of equal size and date":
        replace_unnoticed(folder / "images" / "1.jpg")
    else:
        table.write_text("path,caption\n0.jpg,A dog\n1.jpg,A cat\n2.jpg,A hen\n")
    with pytest.raises(UserError, match="has changed since"):
        prepare("folder", tmp_path / "data", folder)


def test_prepare_stays_off_the_network_and_silent(tmp_path, monkeypatch, capfd):
    def refuse(*_):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    write_precomp(tmp_path / "raw")
    prepare("precomp", tmp_path / "data", tmp_path / "raw")
    assert capfd.readouterr() == ("", "")
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["precomp"]
    assert [p.name for p in (tmp_path / "data" / "precomp").iterdir()] == ["1.0.0"]


def test_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    write_precomp(tmp_path / "raw")

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("jax_itm.data.tfds_builder.RecordWriter.write", fail)
    with pytest.raises(UserError, match=r"cannot be written .*No space left"):
        prepare("precomp", tmp_path / "data", tmp_path / "raw")
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]
    with pytest.raises(UserError, match="is not prepared"):
        open_split("precomp", tmp_path / "data", "train", "regions")


def test_damaged_set_is_named(tmp_path):
    write_precomp(tmp_path / "raw")
    path = tmp_path / "data" / "precomp" / "1.0.0"
    prepare("precomp", tmp_path / "data", tmp_path / "raw")
    file = next(path.glob("*dev.array_record*"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="precomp/dev: damaged"):
        open_split("precomp", tmp_path / "data", "dev", "regions").record(0)
    (path / "metadata.json").write_text("{")
    with pytest.raises(UserError, match=r"1\.0\.0: damaged"):
        open_split("precomp", tmp_path / "data", "train", "regions")


def edit(name, change):
    def spoil(folder):
        array = np.load(folder / name)
        np.save(folder / name, change(array))

    return spoil


def with_value(value):
    def change(array):
        array[2, 1, 3] = value
        return array

    return edit("dev_ims.npy", change)


def line(number, text):
    def spoil(folder):
        lines = (folder / "dev_caps.txt").read_bytes().split(b"\n")
        lines[number - 1 : number] = text
        (folder / "dev_caps.txt").write_bytes(b"\n".join(lines))

    return spoil


def partly_repeated(array):
    rows = np.repeat(array, 5, axis=0)
    rows[7] += 1
    return rows


PRECOMP_FAULTS = {
    "no splits": (lambda f: [p.unlink() for p in f.glob("*_ims.npy")], "none of train_ims.npy"),
    "no captions": (lambda f: (f / "dev_caps.txt").unlink(), r"dev_caps\.txt: cannot be read"),
    "rows": (edit("dev_ims.npy", lambda a: a[:3]), "3 rows do not match the 20 captions"),
    "no rows": (edit("dev_ims.npy", lambda a: a[:0]), "0 rows do not match"),
    "flat": (edit("dev_ims.npy", lambda a: a[:, 0]), r"dev_ims\.npy: shape \(4, 8\), must be"),
    "dim": (edit("dev_ims.npy", lambda a: a[..., :6]), "features of size 6, but train_ims.npy"),
    "integers": (edit("dev_ims.npy", lambda a: a.astype(int)), "dtype int64, must be floating"),
    "pickled": (edit("dev_ims.npy", lambda a: np.array([a, None], object)), "not a readable"),
    "truncated": (
        lambda f: (f / "dev_ims.npy").write_bytes((f / "dev_ims.npy").read_bytes()[:-9]),
        r"dev_ims\.npy: not a readable \.npy array",
    ),
    "nan": (with_value(np.nan), r"dev_ims\.npy: row 2: a region is not finite"),
    "overflow": (with_value(1e5), r"dev_ims\.npy: row 2: a region is not finite in float16"),
    "empty line": (line(7, [b" "]), r"dev_caps\.txt:7: empty line"),
    "latin-1": (line(9, [b"caf\xe9"]), r"dev_caps\.txt:9: not UTF-8"),
    "missing line": (line(3, []), "4 rows do not match the 19 captions"),
    "ids": (lambda f: (f / "dev_ids.txt").write_text("a\nb\n"), r"dev_ids\.txt: 2 lines"),
    "repeats": (edit("dev_ims.npy", partly_repeated), "but not rows 5 to 9"),
    "box count": (edit("boxes.npy", lambda b: b[:2]), "2 boxes, but train_ims.npy has 3"),
    "box range": (edit("boxes.npy", lambda b: b * 200), r"boxes\.npy: row 0 is not"),
    "box order": (edit("boxes.npy", lambda b: b[:, ::-1]), r"boxes\.npy: row 0 is not"),
}


@pytest.mark.parametrize("fault", PRECOMP_FAULTS)
def test_precomp_refuses(tmp_path, fault):
    write_precomp(tmp_path / "raw")
    spoil, message = PRECOMP_FAULTS[fault]
    spoil(tmp_path / "raw")
    refuses(tmp_path, "precomp", tmp_path / "raw", message)


def test_sources_that_are_not_there(tmp_path):
    refuses(tmp_path, "precomp", None, "--source: precomp is made from raw files")
    refuses(tmp_path, "precomp", tmp_path / "none", "no such file or directory")
    refuses(tmp_path, "scenes", tmp_path, "scenes is generated")
    refuses(tmp_path, "cocoo", tmp_path, "data set 'cocoo': must be one of scenes, precomp, folder")


def test_folder_csv_keeps_pictures_as_given(tmp_path):
    folder = write_folder(tmp_path / "raw")
    picture(7).save(folder / "p.webp", lossless=True)
    picture(8).convert("L").save(folder / "gray.png")
    (folder / "captions.csv").write_text(
        'split,path,caption\n,0.jpg,"One, two"\nval,1.jpg,A\n,p.webp,B\n,0.jpg,Three\n'
        ",images/2.jpg,C\n,gray.png,D\n"
    )
    facts = prepare("folder", tmp_path / "data", folder)
    assert facts["splits"] == {
        "train": {"images": 4, "captions": 5},
        "val": {"images": 1, "captions": 1},
    }
    train = open_split("folder", tmp_path / "data", "train", "pixels")
    assert train.captions() == ["One, two", "Three", "B", "C", "D"]
    assert train.region_dim is None
    np.testing.assert_array_equal(train.caption_image, [0, 0, 1, 2, 3])
    part = train.first(2)
    assert (len(part), len(train)) == (2, 4)
    assert part.captions() == ["One, two", "Three", "B"]
    np.testing.assert_array_equal(part.caption_image, [0, 0, 1])
    assert train.first(0) is train.first(9) is train
    for i, path in enumerate(["images/0.jpg", "p.webp", "images/2.jpg", "gray.png"]):
        expected = np.asarray(Image.open(folder / path).convert("RGB"))
        np.testing.assert_array_equal(train.record(i)["pixels"], expected)
        np.testing.assert_array_equal(train.picture(i), expected)
    record = next((tmp_path / "data").rglob("*-val.array_record*")).read_bytes()
    assert (folder / "images" / "1.jpg").read_bytes() in record


def test_folder_jsonl_named_by_file(tmp_path):
    folder = write_folder(tmp_path / "raw")
    (folder / "other.csv").write_text("")
    rows = [{"path": f"{k}.jpg", "caption": f"größe {k}"} for k in range(3)]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "c.jsonl").write_text(text, encoding="utf-8-sig")
    prepare("folder", tmp_path / "data", folder / "c.jsonl")
    split = open_split("folder", tmp_path / "data", "train", "pixels")
    assert split.captions() == ["größe 0", "größe 1", "größe 2"]


def test_folder_karpathy(tmp_path):
    folder = write_folder(tmp_path / "raw")
    (folder / "images" / "1.jpg").rename(folder / "1.jpg")
    (folder / "deep").mkdir()
    (folder / "1.jpg").rename(folder / "deep" / "1.jpg")
    (folder / "dataset.json").write_text(json.dumps(karpathy(filepath="deep")))
    facts = prepare("folder", tmp_path / "data", folder)
    assert list(facts["splits"]) == ["train", "test"]
    split = open_split("folder", tmp_path / "data", "test", "pixels")
    np.testing.assert_array_equal(split.picture(0), Image.open(folder / "deep" / "1.jpg"))


FOLDER_FAULTS = {
    "none": ({}, "needs one .json, .jsonl or .csv file of captions, found none"),
    "two": ({"a.csv": "", "b.json": ""}, "found a.csv, b.json"),
    "no captions": ({"a.csv": "path,caption\n"}, r"a\.csv: no captions"),
    "columns": ({"a.csv": "file,text\n0.jpg,A\n"}, r"a\.csv:1: needs the columns path and caption"),
    "empty": ({"a.csv": "path,caption\n0.jpg,A\n1.jpg,\n"}, r"a\.csv:3: empty caption"),
    "short row": ({"a.csv": "path,caption\n0.jpg\n"}, r"a\.csv:2: 1 cells, but 2 columns"),
    "row without a split": ({"a.csv": "path,caption,split\n0.jpg,A\n"}, r"a\.csv:2: 2 cells, but 3 columns"),
    "a comma": (
        {"a.csv": 'split,path,caption\n,0.jpg,"Yes, A"\n,1.jpg,A man, a hat and a dog\n'},
        r"a\.csv:3: 4 cells, but 3 columns; a caption with a comma stands in quotes",
    ),
    "a comma first": ({"a.csv": "caption,path\nA dog, a cat,0.jpg\n"}, r"a\.csv:2: 3 cells, but 2"),
    "column twice": ({"a.csv": "path,caption,caption\n0.jpg,A,B\n"}, "has the column 'caption' twice"),
    "split misspelt": (
        {"a.csv": "path,caption,Spilt\n0.jpg,A,val\n"},
        r"a\.csv:1: no column 'Spilt'; did you mean 'split'",
    ),
    "jsonl split misspelt": (
        {"a.jsonl": '{"path": "0.jpg", "caption": "A"}\n{"path": "1.jpg", "caption": "B", "splits": "val"}'},
        r"a\.jsonl:2: no column 'splits'; did you mean 'split'",
    ),
    "jsonl name twice": (
        {"a.jsonl": '{"path": "0.jpg", "caption": "A", "caption": "B"}'},
        r"a\.jsonl:1: not JSON \(the name 'caption' twice",
    ),
    "jsonl split": (
        {"a.jsonl": '{"path": "0.jpg", "caption": "A", "split": true}'},
        r"a\.jsonl:1: split is True, must be text",
    ),
    "jsonl null": (
        {"a.jsonl": '{"path": null, "caption": "A"}'},
        r"a\.jsonl:1: an image's name is None, must be text",
    ),
    "json split": ({"a.json": json.dumps(karpathy(split=None))}, r"images\[1\]: split is None, must be text"),
    "one picture in two splits": (
        {"a.csv": "path,caption,split\nimages/0.jpg,A,val\n./images//0.jpg,B,test\n"},
        r"a\.csv:3: images/0\.jpg is in the split 'val' already",
    ),
    "one file in two splits": (
        {"a.csv": "path,caption,split\nimages/0.jpg,A,val\n0.jpg,B,test\n"},
        r"0\.jpg: is the same as images/0\.jpg: both are .*raw/images/0\.jpg",
    ),
    "one file twice": (
        {"a.csv": "path,caption\n1.jpg,A\nimages/1.jpg,B\n"},
        r"images/1\.jpg: is the same as 1\.jpg",
    ),
    "no path": ({"a.csv": "path,caption\n,A\n"}, r"a\.csv:2: empty path"),
    "open quote": ({"a.csv": 'path,caption\n0.jpg,"A\n'}, r"a\.csv:2: not CSV"),
    "two splits": (
        {"a.csv": "path,caption,split\n0.jpg,A,val\n0.jpg,B,test\n"},
        r"a\.csv:3: 0\.jpg is in the split 'val' already",
    ),
    "split name": (
        {"a.csv": "path,caption,split\n0.jpg,A,my split\n"},
        "split 'my split': must be",
    ),
    "no image": ({"a.csv": "path,caption\n9.jpg,A\n"}, r"9\.jpg: no such image in .*raw or"),
    "escape": ({"a.csv": "path,caption\n../up.jpg,A\n"}, r"\.\./up\.jpg: image paths must stay"),
    "escape later": ({"a.csv": "path,caption\nimages/../../up.jpg,A\n"}, "must stay inside"),
    "absolute": ({"a.csv": "path,caption\n/etc/up.jpg,A\n"}, "/etc/up.jpg: image paths must stay"),
    "no picture": ({"a.csv": "path,caption\na.csv,A\n"}, r"raw/a\.csv: not a readable image"),
    "truncated": (
        {"a.csv": "path,caption\nt.jpg,A\n", "t.jpg": truncated_jpeg()},
        r"raw/t\.jpg: not a readable image",
    ),
    "jsonl": ({"a.jsonl": '{"path": "0.jpg", "caption": "A"}\n{"path"\n'}, r"a\.jsonl:2: not JSON"),
    "jsonl field": ({"a.jsonl": '{"path": "0.jpg"}\n'}, r"a\.jsonl:1: needs the fields path and"),
    "jsonl row": ({"a.jsonl": "[1]\n"}, r"a\.jsonl:1: needs the fields"),
    "jsonl number": (
        {"a.jsonl": '{"path": "0.jpg", "caption": 1}'},
        r"a\.jsonl:1: a caption is 1, must be text",
    ),
    "utf-8": ({"a.csv": b"path,caption\n0.jpg,caf\xe9\n"}, r"a\.csv:2: not UTF-8"),
    "json": ({"a.json": '{"images": [\n'}, r"a\.json:2: not JSON"),
    "json list": ({"a.json": "[]"}, r"a\.json: not Karpathy's JSON"),
    "json field": (
        {"a.json": json.dumps(karpathy(sentences=[{"tokens": ["a"]}]))},
        r"a\.json: images\[1\]: needs filename, split and sentences",
    ),
    "json empty": (
        {"a.json": json.dumps(karpathy(sentences=[]))},
        r"a\.json: images\[1\]: empty caption",
    ),
}


def test_missing_splits_are_train_and_other_columns_are_named(tmp_path):
    folder = write_folder(tmp_path / "raw")
    rows = [
        {"path": "0.jpg", "caption": "A", "split": None, "id": 7},
        {"path": "./1.jpg", "caption": "B", "split": ""},
        {"path": "1.jpg", "caption": "C", "url": "x"},
        {"path": "2.jpg", "caption": "D", "split": "val"},
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = prepare("folder", tmp_path / "data", folder)
    assert summary["splits"] == {"train": {"images": 2, "captions": 3}, "val": {"images": 1, "captions": 1}}
    assert summary["notes"] == ["a.jsonl: not used: id, url"]
    assert open_split("folder", tmp_path / "data", "train", "pixels").captions() == ["A", "B", "C"]
    (folder / "a.jsonl").unlink()
    (folder / "a.csv").write_text("year,path,caption\n1999,0.jpg,A\n\n1999,1.jpg,B\n")
    assert prepare("folder", tmp_path / "csv", folder)["notes"] == ["a.csv: not used: year"]


def folder_of_many(folder, names, rows=()):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        picture(k, (6, 4)).save(folder / "images" / name)
    lines = [f"{name},Caption {c} of {name}," for name in names for c in range(2)]
    (folder / "a.csv").write_text("\n".join(["path,caption,split", *lines, *rows]) + "\n")
    return folder


def names_of(data_dir, split):
    captions = open_split("folder", data_dir, split, "pixels").captions()
    return {caption.split()[-1] for caption in captions}


def test_a_set_without_val_gets_a_share_of_train_that_stays(tmp_path):
    names = [f"{k}.png" for k in range(60)]
    summary = prepare("folder", tmp_path / "a", folder_of_many(tmp_path / "raw", names))
    counts = summary["splits"]
    assert counts["train"]["images"] + counts["val"]["images"] == 60 and 1 <= counts["val"]["images"] <= 15
    assert counts["val"]["captions"] == 2 * counts["val"]["images"]
    few, many = counts["val"]["images"], 60
    assert summary["notes"] == [f"val: {few} of the {many} images of train, by a digest of their names"]
    val = names_of(tmp_path / "a", "val")
    more = folder_of_many(tmp_path / "raw", ["new.png", *names])
    prepare("folder", tmp_path / "b", more)
    assert names_of(tmp_path / "b", "val") - {"new.png"} == val
    assert not val & names_of(tmp_path / "b", "train")


def test_a_set_that_has_val_or_is_small_keeps_its_splits(tmp_path):
    names = [f"{k}.png" for k in range(25)]
    with_val = folder_of_many(tmp_path / "raw", names[1:], ["0.png,A,val"])
    picture(0).save(with_val / "images" / "0.png")
    assert prepare("folder", tmp_path / "a", with_val)["splits"]["val"]["images"] == 1
    small = prepare("folder", tmp_path / "b", folder_of_many(tmp_path / "small", names[:19]))
    assert list(small["splits"]) == ["train"] and not small["notes"]


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_folder_refuses(tmp_path, fault):
    files, message = FOLDER_FAULTS[fault]
    folder = write_folder(tmp_path / "raw")
    picture(0).save(tmp_path / "up.jpg")
    for name, data in files.items():
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    refuses(tmp_path, "folder", folder, message)


def test_split_travels_to_other_processes(tmp_path):
    write_precomp(tmp_path / "raw")
    prepare("precomp", tmp_path / "data", tmp_path / "raw")
    split = open_split("precomp", tmp_path / "data", "train", "regions")
    split.record(0)
    again = pickle.loads(pickle.dumps(split))
    np.testing.assert_array_equal(again.record(3)["regions"], split.record(3)["regions"])


def test_real_pictures(tmp_path, real_data):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "images").symlink_to(real_data / "flickr8k" / "images")
    rows = json.loads((real_data / "flickr8k" / "dataset_flickr8k.json").read_text())["images"]
    (folder / "d.json").write_text(json.dumps({"images": rows[:20] + rows[-20:]}))
    facts = prepare("folder", tmp_path / "data", folder)
    assert facts["splits"]["train"] == {"images": 20, "captions": 100}
    split = open_split("folder", tmp_path / "data", "val", "pixels")
    assert split.record(19)["captions"] == [s["raw"].strip() for s in rows[-1]["sentences"]]


def test_real_regions(tmp_path, real_data):
    source = real_data / "flickr8k_precomp"
    facts = prepare("precomp", tmp_path / "data", source)
    assert facts["splits"]["dev"] == {"images": 1000, "captions": 5000}
    split = open_split("precomp", tmp_path / "data", "dev", "regions")
    images = np.load(source / "dev_ims.npy", mmap_mode="r")
    for i in (0, 123, 999):
        np.testing.assert_array_equal(split.record(i)["regions"], images[i])


def test_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "SPLITS", {"train": 4, "val": 2})
    facts = prepare("scenes", tmp_path / "data")
    assert {s: n["images"] for s, n in facts["splits"].items()} == {"train": 4, "val": 2}
    assert facts["features"] == ["image", "regions", "boxes", "phrases"]
    regions = open_split("scenes", tmp_path / "data", "val", "regions")
    pixels = open_split("scenes", tmp_path / "data", "val", "pixels")
    for i, scene in enumerate(render.generate("val", 2, 0)):
        record = regions.record(i)
        assert record["captions"] == list(scene["captions"])
        np.testing.assert_array_equal(record["regions"], scene["regions"])
        np.testing.assert_array_equal(record["boxes"], scene["boxes"])
        np.testing.assert_array_equal(pixels.record(i)["pixels"], scene["image"])
        np.testing.assert_array_equal(regions.picture(i), scene["image"])
        assert regions.phrases(i) == [dict(phrase) for phrase in scene["phrases"]]
    assert prepare("scenes", tmp_path / "data")["reused"]
