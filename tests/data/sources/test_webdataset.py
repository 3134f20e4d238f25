"""Tar files as `webdataset` writes them, and img2dataset's layout of them."""

import tarfile

import pytest
import webdataset

from jax_itm.cli.main import main
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.data.shard_preparation import ShardOptions
from jax_itm.errors import UserError
from tests.helpers.errors import refuses, says
from tests.helpers.shards import jpeg, sample, text, write_img2dataset


def records(data, split="train"):
    opened = open_split("webdataset", data, split, "pixels")
    return [opened.record(k) for k in range(len(opened))]


def write_tar(file, *samples):
    file.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(file)) as tar:
        for k, each in enumerate(samples):
            tar.write({"__key__": f"{k:04d}", **each})
    return file


def test_img2dataset(tmp_path, capsys):
    raw = write_img2dataset(tmp_path / "raw", shards=2, each=4, failed=3)
    command = ["prepare", "webdataset", "--source", str(raw), "--data_dir", str(tmp_path / "data")]
    assert main([*command, "--readers", "2"]) == 0
    out = capsys.readouterr().out
    assert "6 pairs that img2dataset could not download" in out and "webdataset in" in out
    assert [record["captions"] for record in records(tmp_path / "data")] == [[text(k, 0)] for k in range(8)]


def test_the_same_pairs_as_webdataset_itself(tmp_path):
    raw = write_img2dataset(tmp_path / "raw", shards=2, each=3)
    prepare("webdataset", tmp_path / "data", raw)
    theirs = webdataset.WebDataset(str(raw / "{00000..00001}.tar"), shardshuffle=False).decode()
    ours = records(tmp_path / "data")
    assert [item["txt"] for item in theirs] == [record["captions"][0] for record in ours]


@pytest.mark.parametrize(
    "pattern, images", [("{00000..00002}.tar", 6), ("0000{0,2}.tar", 4), ("*[12].tar", 4), ("00001.tar", 2)]
)
def test_patterns(tmp_path, monkeypatch, pattern, images):
    raw = write_img2dataset(tmp_path / "raw", shards=3, each=2)
    monkeypatch.chdir(raw)
    assert prepare("webdataset", tmp_path / "data", pattern)["splits"]["train"]["images"] == images
    assert prepare("webdataset", tmp_path / "data", raw / pattern)["reused"]


def test_splits_are_in_the_names(tmp_path):
    for k, name in enumerate(("train/0.tar", "val-000.tar", "my_test.tar", "train/validation_1.tar")):
        write_tar(tmp_path / "raw" / name, {"jpg": jpeg(k), "txt": f"picture {k}"})
    facts = prepare("webdataset", tmp_path / "data", tmp_path / "raw")
    images = {name: split["images"] for name, split in facts["splits"].items()}
    assert images == {"train": 1, "val": 2, "test": 1}


def test_captions_in_json(tmp_path):
    write_tar(
        tmp_path / "raw" / "0.tar",
        {"png": jpeg(0), "json": {"captions": ["a", "b"], "alt": "x"}},
        {"jpeg": jpeg(1), "json": {"caption": "c", "alt": "y"}},
    )
    prepare("webdataset", tmp_path / "data", tmp_path / "raw")
    assert [record["captions"] for record in records(tmp_path / "data")] == [["a", "b"], ["c"]]
    options = ShardOptions(columns=(("caption", "alt"),))
    prepare("webdataset", tmp_path / "alt", tmp_path / "raw", shards=options)
    assert [record["captions"] for record in records(tmp_path / "alt")] == [["x"], ["y"]]


def test_rows_of_one_url_are_one_image(tmp_path):
    fields = [{"url": "u", "caption": "a"}, {"url": "v", "caption": "b"}, {"url": "u", "caption": "c"}]
    for k, each in enumerate(fields):
        write_tar(tmp_path / "raw" / f"{k}.tar", {"jpg": jpeg(k), "json": each})
    options = ShardOptions(columns=(("key", "url"),))
    prepare("webdataset", tmp_path / "data", tmp_path / "raw", shards=options)
    assert [record["captions"] for record in records(tmp_path / "data")] == [["a", "c"], ["b"]]


def test_bad_samples_are_left_out_counted_and_listed(tmp_path, capsys):
    good = {"jpg": jpeg(0), "txt": "a dog"}
    write_tar(
        tmp_path / "raw" / "0.tar",
        *[good] * 4,
        {"txt": "no picture"},
        {"jpg": jpeg(0)},
        {"jpg": jpeg(0), "png": jpeg(0), "txt": "two"},
        {"jpg": b"no picture", "txt": "a"},
        {"jpg": jpeg(0)[:-50], "txt": "cut"},
        {"jpg": jpeg(0), "txt": b"\xff\xff"},
        {"jpg": jpeg(0), "txt": " "},
    )
    raw, data = str(tmp_path / "raw"), str(tmp_path / "data")
    command = ["prepare", "webdataset", "--source", raw, "--data_dir", data]
    says(capsys, main(command), "7 of 11 rows are bad", "--max_bad 0.01", "0.tar:0004: no picture")
    assert main([*command, "--max_bad", "0.7"]) == 0
    assert "7 bad rows left out (bad.txt)" in capsys.readouterr().out
    listed = (tmp_path / "data" / "webdataset" / "1.0.0" / "bad.txt").read_text().splitlines()
    reasons = ["no picture", "no caption", "2 pictures", "not a picture", "cut", "utf-8", "empty caption"]
    for reason, line in zip(reasons, listed, strict=True):
        assert reason in line


def test_nothing_good_is_an_error(tmp_path):
    write_tar(tmp_path / "raw" / "0.tar", {"txt": "a"})
    with pytest.raises(UserError, match="no picture with a caption among 1 rows"):
        prepare("webdataset", tmp_path / "data", tmp_path / "raw", shards=ShardOptions(max_bad=1.0))


@pytest.mark.parametrize("cut", [0, 100, 2000, 5000])
def test_a_cut_tar_is_an_error(tmp_path, cut):
    raw = write_img2dataset(tmp_path / "raw", shards=1, each=4)
    file = raw / "00000.tar"
    data = file.read_bytes().rstrip(b"\0")
    file.write_bytes(data[: len(data) - cut])
    refuses(tmp_path, "webdataset", raw, r"00000\.tar: damaged or cut after \d samples")


def test_what_is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    refuses(tmp_path, "webdataset", tmp_path / "raw", r"no \.tar, \.tar\.gz, \.tgz file there")
    refuses(tmp_path, "webdataset", tmp_path / "raw" / "{0..1}.tar", r"raw/0\.tar: no such file")
    (tmp_path / "raw" / "0.tar").write_bytes(b"no tar")
    refuses(tmp_path, "webdataset", tmp_path / "raw", r"0\.tar: damaged or cut after 0 samples")
    write_tar(tmp_path / "raw" / "0.tar", sample(0, 0, 1))
    (tmp_path / "raw" / "0_stats.json").write_text("[]")
    refuses(tmp_path, "webdataset", tmp_path / "raw", r"0_stats\.json: not the statistics of img2dataset")
    with pytest.raises(UserError, match="--beam: webdataset is written by --readers N"):
        prepare("webdataset", tmp_path / "data", tmp_path / "raw" / "0.tar", beam={})


def test_links_and_devices_are_no_pictures(tmp_path):
    (tmp_path / "raw").mkdir()
    with tarfile.open(tmp_path / "raw" / "0.tar", "w") as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UserError, match=r"0\.tar:a: its picture is empty, larger than .* or no file"):
        prepare("webdataset", tmp_path / "data", tmp_path / "raw")
