"""Parquet files as `datasets` writes them: the layouts of the usual copies, and what is refused."""

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Features, Image, Sequence, Value
from pyarrow import parquet

from jax_itm.cli.main import main
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.data.shard_preparation import ShardOptions
from jax_itm.errors import UserError
from tests.helpers.errors import refuses, says
from tests.helpers.pictures import picture
from tests.helpers.shards import COCO, coco_rows, flickr_rows, jpeg, text, write_parquet


def records(data, split, name="huggingface"):
    opened = open_split(name, data, split, "pixels")
    return [opened.record(k) for k in range(len(opened))]


def test_flickr30k(tmp_path):
    # nlphuji/flickr30k: one file "test", whose column says the splits.
    raw = write_parquet(tmp_path / "raw", flickr_rows(7), shards=2)
    facts = prepare("huggingface", tmp_path / "data", raw)
    assert {k: v["images"] for k, v in facts["splits"].items()} == {"train": 3, "val": 2, "test": 2}
    assert facts["notes"] == ["columns: image=image,caption=caption,split=split,key=img_id,name=filename"]
    found = records(tmp_path / "data", "train")
    assert [record["captions"][4] for record in found] == [text(k, 4) for k in (0, 3, 6)]
    opened = open_split("huggingface", tmp_path / "data", "val", "pixels")
    np.testing.assert_allclose(opened.picture(1).mean(), np.asarray(picture(4)).mean(), atol=5)


def test_coco_has_a_row_a_caption_and_five_of_an_image_of_val(tmp_path):
    raw = write_parquet(tmp_path / "raw", coco_rows(8, 7), shards=3)
    facts = prepare("huggingface", tmp_path / "data", raw)
    counts = {k: tuple(v.values()) for k, v in facts["splits"].items()}
    assert counts == {"train": (4, 28), "val": (2, 10), "test": (2, 10)}  # restval is train
    assert "caption=sentences" in facts["notes"][0] and "key=cocoid" in facts["notes"][0]
    assert facts["notes"][1] == "val and test: the first 5 captions an image"
    assert records(tmp_path / "data", "val")[0]["captions"] == [text(2, c) for c in range(5)]


ONE = {"image": {"bytes": jpeg(0), "path": None}}


@pytest.mark.parametrize(
    "features, row, captions",
    [
        ({"image": Image(), "answer": Sequence(Value("string"))}, {"answer": ["a", "b"]}, ["a", "b"]),
        ({"image": Image(), "caption_0": Value("string"), "caption_1": Value("string")},
         {"caption_0": "a", "caption_1": "b"}, ["a", "b"]),
        ({"image": Image(), "sentences": [COCO["sentences"]]},
         {"sentences": [{"tokens": [], "raw": k, "imgid": 0, "sentid": 0} for k in "ab"]}, ["a", "b"]),
        ({"photo": Image(), "text": Value("string")}, {"photo": ONE["image"], "text": "a"}, ["a"]),
        ({"image": Value("binary"), "text": Value("string")}, {"image": jpeg(0), "text": "a"}, ["a"]),
        ({"image": Value("string"), "raw": Value("string")}, {"image": "pictures/0.jpg", "raw": "a"}, ["a"]),
    ],
)  # fmt: skip
def test_columns_are_found_by_type_and_name(tmp_path, features, row, captions):
    row = {**(ONE if "image" in features else {}), **row}
    raw = write_parquet(tmp_path / "raw", (Features(features), [row]), name="validation")
    (raw / "pictures").mkdir()
    (raw / "pictures" / "0.jpg").write_bytes(jpeg(0))
    prepare("huggingface", tmp_path / "data", raw)
    (record,) = records(tmp_path / "data", "val")
    assert record["captions"] == captions and record["pixels"].shape == (12, 20, 3)


def test_columns_may_be_named(tmp_path, capsys):
    features = Features({k: Value("string") for k in ("short", "long", "part", "file")})
    rows = [{"short": "a", "long": "b", "part": "dev", "file": "0.jpg"}]
    raw = write_parquet(tmp_path / "raw", (features, rows))
    (raw / "0.jpg").write_bytes(jpeg(0))
    command = ["prepare", "huggingface", "--source", str(raw), "--data_dir", str(tmp_path / "data")]
    says(capsys, main(command), "no column of images among short, long, part, file", "--columns image=NAME")
    says(capsys, main([*command, "--columns", "image=fil"]), "--columns image=fil", "has no such column")
    says(capsys, main([*command, "--columns", "picture=file"]), "of the roles image, caption, split, key")
    assert main([*command, "--columns", "image=file,caption=long,split=part"]) == 0
    assert "columns: image=file,caption=long,split=part" in capsys.readouterr().out
    assert records(tmp_path / "data", "val")[0]["captions"] == ["b"]


def test_a_name_on_the_hub(tmp_path, monkeypatch):
    """From the cache that huggingface_hub keeps, offline."""
    raw = write_parquet(tmp_path / "raw", flickr_rows(3))
    cache = tmp_path / "cache" / "datasets--owner--set"
    commit = "0" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "snapshots").mkdir()
    raw.rename(cache / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    facts = prepare("huggingface", tmp_path / "data", "owner/set")
    assert facts["source"] == "owner/set" and facts["splits"]["train"]["images"] == 1
    assert prepare("huggingface", tmp_path / "data", "owner/set")["reused"]
    refuses(tmp_path / "other", "huggingface", "owner/other", "owner/other: .* the hub did not provide it")
    refuses(tmp_path / "other", "huggingface", "no/such/dir", "no such directory, and not a name on the hub")


def test_bad_rows_are_left_out_counted_and_listed(tmp_path):
    features, rows = flickr_rows(30, ("train", "val"))
    rows[2]["image"]["bytes"] = jpeg(2)[:-50]
    rows[5]["caption"] = []
    rows[7]["image"] = None
    raw = write_parquet(tmp_path / "raw", (features, rows))
    message = r"3 of 30 rows are bad, .* allows \(.*:2: 2\.jpg: the file is cut; .*:5: no caption"
    with pytest.raises(UserError, match=message) as error:
        prepare("huggingface", tmp_path / "data", raw)
    assert "bad.txt" in str(error.value)
    facts = prepare("huggingface", tmp_path / "data", raw, shards=ShardOptions(max_bad=0.1))
    assert facts["tally"] == {"bad rows left out (bad.txt)": 3}
    assert sum(split["images"] for split in facts["splits"].values()) == 27
    listed = (tmp_path / "data/huggingface/1.0.0/bad.txt").read_text().splitlines()
    assert len(listed) == 3 and listed[2].endswith(":7: no picture")


def test_pictures_that_are_damaged_inside_are_found_when_decoded(tmp_path):
    features, rows = flickr_rows(2, ("train",))
    data = bytearray(rows[1]["image"]["bytes"])
    table = data.index(b"\xff\xc4")  # the first Huffman table: more codes than there can be
    data[table + 5 : table + 21] = b"\xff" * 16
    rows[1]["image"]["bytes"] = bytes(data)
    raw = write_parquet(tmp_path / "raw", (features, rows))
    prepare("huggingface", tmp_path / "plain", raw)
    options = ShardOptions(max_bad=0.5, decode=True)
    facts = prepare("huggingface", tmp_path / "decoded", raw, shards=options)
    assert facts["splits"]["train"]["images"] == 1


def test_what_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refuses(tmp_path, "huggingface", tmp_path / "empty", r"empty: no \.parquet file in it")
    raw = write_parquet(tmp_path / "raw", flickr_rows(2))
    file = next(raw.rglob("*.parquet"))
    data = file.read_bytes()
    file.write_bytes(data[:-10])
    refuses(tmp_path, "huggingface", raw, r"test-00000-of-00001\.parquet: not a readable parquet file")
    file.write_bytes(data[:4] + bytes(60) + data[64:])
    refuses(tmp_path, "huggingface", raw, r"test-00000-of-00001\.parquet: damaged")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = {"image": pa.array([{"bytes": None, "path": "../secret.jpg"}], kind), "text": ["a"]}
    (tmp_path / "secret.jpg").write_bytes(jpeg(0))
    parquet.write_table(pa.table(rows), file)
    with pytest.raises(UserError, match="image paths must stay inside"):
        prepare("huggingface", tmp_path / "data", raw)
    with pytest.raises(UserError, match="--group rows: must be one of key, bytes, none"):
        prepare("huggingface", tmp_path / "data2", raw, shards=ShardOptions(group="rows"))
    with pytest.raises(UserError, match="--columns: folder has none to choose"):
        prepare("folder", tmp_path / "data3", raw, shards=ShardOptions(columns=(("image", "a"),)))


def test_datasets_reads_what_these_tests_write(tmp_path):
    """The files are the library's own: it shows the same pictures."""
    raw = write_parquet(tmp_path / "raw", flickr_rows(2))
    file = str(next(raw.rglob("*.parquet")))
    again = datasets.Dataset.from_parquet(file, cache_dir=str(tmp_path / "cache"))
    assert again[1]["image"].size == (20, 12) and again[1]["caption"][0] == text(1, 0)
