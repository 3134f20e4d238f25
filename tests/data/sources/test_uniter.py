"""UNITER's features in the layouts they were published in: prepared, read back, and refused."""

import json
import re
import sys

import numpy as np
import pytest

from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.errors import UserError
from tests.helpers.uniter_features import (
    COCO,
    DEFAULT,
    FLICKR,
    entries,
    entry,
    packed,
    write_captions,
    write_lmdb,
    write_npz,
    zipped,
)

DATABASES = (DEFAULT, DEFAULT + "_compressed", "all", "all_compressed", "feat_numbb36")


def check(tmp_path, images, expected):
    """Prepares, and compares regions, boxes, captions of each image with the arrays' first rows."""
    facts = prepare("uniter", tmp_path / "data", tmp_path / "raw")
    assert facts["splits"] == {split: {"images": 1, "captions": 5} for split in ("train", "test")}
    assert facts["features"] == ["regions", "boxes"]
    for split, image in zip(("train", "test"), images, strict=True):
        opened = open_split("uniter", tmp_path / "data", split, "regions")
        arrays, count = expected[images[image]]
        assert opened.region_dim == 8 and opened.has_boxes and opened.max_regions == count
        record = opened.record(0)
        assert record["captions"] == [f"{image} {c}" for c in range(5)]
        assert record["regions"].dtype == np.float16
        np.testing.assert_array_equal(record["regions"], arrays["features"][:count].astype(np.float16))
        boxes = arrays["norm_bb"][:count, :4].astype(np.float32)
        np.testing.assert_array_equal(record["boxes"], boxes)
        written = next((tmp_path / "data").rglob(f"*-{split}.array_record*")).read_bytes()
        assert image.encode() in written  # the name


@pytest.mark.parametrize("images", [FLICKR, COCO], ids=["flickr30k", "coco"])
def test_npz_files(tmp_path, images):
    features = entries(images.values(), dtype=np.float32)
    write_captions(tmp_path / "raw", images)
    for key, arrays in features.items():  # COCO's lie in two folders
        write_npz(tmp_path / "raw" / "img" / key.rpartition("_")[0], {key: arrays})
    check(tmp_path, images, {key: (arrays, 12) for key, arrays in features.items()})


@pytest.mark.parametrize("name", DATABASES)
def test_databases(tmp_path, name):
    write_captions(tmp_path / "raw", FLICKR)
    features = entries(FLICKR.values())
    write_lmdb(tmp_path / "raw" / "img_db" / "flickr30k" / name, features)
    # `all` is cut by the confidences; others were cut when they were written.
    count = 12 if name.startswith("all") else 14
    check(tmp_path, FLICKR, {key: (arrays, count) for key, arrays in features.items()})


@pytest.mark.parametrize("name", [DEFAULT + "_compressed", "all"])
def test_the_table_of_numbers_of_boxes_wins(tmp_path, name):
    write_captions(tmp_path / "raw", COCO, "dataset_coco.json")
    numbers = dict(zip(COCO.values(), (11, 13), strict=True))
    features = entries(COCO.values())
    for key, arrays in features.items():
        folder = tmp_path / "raw" / key.rpartition("_")[0]
        write_lmdb(folder / name, {key: arrays})
        (folder / "nbb_th0.2_max100_min10.json").write_text(json.dumps({key: numbers[key]}))
    check(tmp_path, COCO, {key: (arrays, numbers[key]) for key, arrays in features.items()})


def test_databases_beside_the_captions_and_others(tmp_path):
    """One-folder layout; the best database is read, a database of texts and .npz files are not."""
    raw = write_captions(tmp_path / "raw", FLICKR)
    features = entries(FLICKR.values())
    write_lmdb(raw / DEFAULT, features)
    (raw / "nbb_th0.2_max100_min10.json").write_text(json.dumps(dict.fromkeys(features, 12)))
    write_lmdb(raw / "feat_numbb36", {key: b"no features" for key in features})
    write_lmdb(raw / "itm_flickr30k_train.db", {"0": b"text"})
    write_npz(raw, {key: b"no features" for key in features})
    (raw / "link").symlink_to(raw)  # LMDB refuses to open a database twice
    check(tmp_path, FLICKR, {key: (arrays, 12) for key, arrays in features.items()})


def test_number_of_boxes(tmp_path):
    """At least 10, at most 100, fewer where there are fewer; the most confident, in any order."""
    counts = {"1.jpg": (20, 3, 10), "2.jpg": (130, 120, 100), "3.jpg": (4, 1, 4), "4.jpg": (40, 37, 37)}
    raw = write_captions(tmp_path / "raw", counts, splits=["test"] * 4)
    features = {}
    for image, (count, confident, _) in counts.items():
        features[image] = entry(count, count, confident)
        write_npz(raw, {image.replace(".jpg", ".npz"): features[image]})
    shuffled = np.random.default_rng(0).permutation(40)
    write_npz(raw, {"4.npz": {name: array[shuffled] for name, array in features["4.jpg"].items()}})
    prepare("uniter", tmp_path / "data", raw)
    split = open_split("uniter", tmp_path / "data", "test", "regions")
    for i, (image, (_, _, kept)) in enumerate(counts.items()):
        np.testing.assert_array_equal(split.record(i)["regions"], features[image]["features"][:kept])


def spoilt(**changes):
    def spoil(arrays):
        arrays = {name: array.copy() for name, array in arrays.items()}
        for name, change in changes.items():
            arrays[name] = change(arrays[name])
        return {name: array for name, array in arrays.items() if array is not None}

    return spoil


def with_value(value):
    def change(array):
        array = array.astype(np.float32)
        array[1, 3] = value
        return array

    return change


ARRAY_FAULTS = {
    "nan": (spoilt(features=with_value(np.nan)), "a region is not finite in float16"),
    "overflow": (spoilt(features=with_value(1e5)), "a region is not finite in float16"),
    "no features": (spoilt(features=lambda a: None), "no array 'features'"),
    "no conf": (spoilt(conf=lambda a: None), "no array 'conf'"),
    "integers": (spoilt(features=lambda a: a.astype(int)), r"features is int64 \(14, 8\), must be floating"),
    "flat": (spoilt(norm_bb=lambda a: a[0]), r"norm_bb is float16 \(6,\), must be .* of 2 axes"),
    "fewer": (spoilt(norm_bb=lambda a: a[:-1]), r"norm_bb \(13, 6\) of features \(14, 8\)"),
    "seven": (spoilt(norm_bb=lambda a: np.c_[a, a[:, 0]]), r"norm_bb \(14, 7\) of features"),
    "conf": (spoilt(conf=lambda a: a[1:]), r"conf \(13,\) of features \(14, 8\)"),
    "none": (lambda arrays: {name: array[:0] for name, array in arrays.items()}, r"features \(0, 8\)"),
    "size": (spoilt(features=lambda a: a[:, :6]), "features of size 6, the first image's 8"),
    "pixels": (spoilt(norm_bb=lambda a: a * 300), "row 0 is not x1 y1 x2 y2 in units"),
    "order": (spoilt(norm_bb=lambda a: a[:, [2, 3, 0, 1, 4, 5]]), "row 0 is not x1 y1 x2 y2"),
    "bytes": (lambda arrays: b"\xc1nothing", "not "),
    "truncated": (lambda arrays: None, "not "),
    "objects": (
        spoilt(features=lambda a: np.array([1, "a"], object)),
        "not readable as .npz|not msgpack with arrays",
    ),
}


@pytest.mark.parametrize("fault", ARRAY_FAULTS)
@pytest.mark.parametrize("name", ["npz", "all", "all_compressed"])
def test_refuses_features(tmp_path, fault, name):
    raw = write_captions(tmp_path / "raw", FLICKR)
    features = entries(FLICKR.values())
    last = list(features)[-1]
    encode = packed if name == "all" else zipped
    spoil, message = ARRAY_FAULTS[fault]
    features[last] = encode(features[last])[:-90] if fault == "truncated" else spoil(features[last])
    if name == "npz":
        write_npz(raw, features)
    else:
        write_lmdb(raw / "flickr30k" / name, features)
    refuses(tmp_path, rf"(/|: )flickr30k_001018148011\.npz: .*({message})")


def refuses(tmp_path, message):
    """`prepare` raises one line that matches, and leaves nothing behind."""
    with pytest.raises(UserError, match=message) as caught:
        prepare("uniter", tmp_path / "data", tmp_path / "raw")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def default_layout(tmp_path):
    raw = write_captions(tmp_path / "raw", FLICKR)
    write_lmdb(raw / "flickr30k" / DEFAULT, entries(FLICKR.values()))
    return raw


def test_boxes_just_outside_by_rounding(tmp_path):
    raw = write_captions(tmp_path / "raw", FLICKR)
    features = entries(FLICKR.values(), dtype=np.float32)
    for arrays in features.values():
        arrays["norm_bb"][0, :4] = (-0.0004, 0, 1.0004, 1)
    write_npz(raw, features)
    prepare("uniter", tmp_path / "data", raw)
    split = open_split("uniter", tmp_path / "data", "test", "regions")
    np.testing.assert_array_equal(split.record(0)["boxes"][0], [0, 0, 1, 1])


def test_refuses_an_image_without_features(tmp_path):
    raw = default_layout(tmp_path)
    write_captions(raw, ["36979.jpg", "7.jpg"])
    refuses(tmp_path, r"raw: no features of 7\.jpg: no 7\.npz nor flickr30k_000000000007\.npz")


def test_refuses_other_folders(tmp_path):
    (tmp_path / "raw").mkdir()
    refuses(tmp_path, r"needs one \.json, \.jsonl or \.csv file of captions, found none")
    write_captions(tmp_path / "raw", FLICKR)
    refuses(tmp_path, r"raw: neither \.npz files nor a database such as feat_th0\.2_max100_min10/data")
    write_captions(tmp_path / "raw", COCO, "dataset_coco.json")
    refuses(tmp_path, r"found dataset_coco\.json, dataset_flickr30k\.json")


NUMBERS = {
    "not JSON": ("{", r"min10\.json:1: not JSON"),
    "a list": ("[]", r"min10\.json: must be a table"),
    "absent": ("{}", r"min10\.json: number of boxes of flickr30k_000000036979\.npz is None, must be"),
    "zero": ('{"flickr30k_000000036979.npz": 0}', "is 0, must be 1 or more"),
    "text": ('{"flickr30k_000000036979.npz": "9"}', "is 9, must be"),
}


@pytest.mark.parametrize("fault", NUMBERS)
def test_refuses_numbers_of_boxes(tmp_path, fault):
    raw = default_layout(tmp_path)
    text, message = NUMBERS[fault]
    (raw / "flickr30k" / "nbb_th0.2_max100_min10.json").write_text(text)
    refuses(tmp_path, message)


def test_refuses_damaged_databases(tmp_path):
    raw = default_layout(tmp_path)
    file = raw / "flickr30k" / DEFAULT / "data.mdb"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    refuses(tmp_path, r"data\.mdb: truncated, must have [\d,]+ bytes")
    file.write_bytes(b"nothing" * 2000)
    refuses(tmp_path, rf"{DEFAULT}: not a readable LMDB database")


def test_a_database_that_ends_its_reader(tmp_path):
    """Eight to four bytes before a key is how long its value is, which LMDB believes."""
    folder = write_captions(tmp_path / "raw", FLICKR) / "all"
    write_lmdb(folder, {key: bytes(9000) for key in FLICKR.values()})
    data = (folder / "data.mdb").read_bytes()
    for key in FLICKR.values():
        data = re.sub(b".{4}(?=.{4}" + key.encode() + b")", b"\xff" * 4, data, flags=re.DOTALL)
    (folder / "data.mdb").write_bytes(data)
    refuses(tmp_path, r"all: damaged: reading it ends a process \(SIG(BUS|SEGV)\)")


@pytest.mark.parametrize("package", ["lmdb", "msgpack"])
def test_says_which_package_is_missing(tmp_path, monkeypatch, package):
    default_layout(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    refuses(tmp_path, f"needs the package {package}: pip install lmdb msgpack")


def test_npz_files_need_no_package(tmp_path, monkeypatch):
    raw = write_captions(tmp_path / "raw", FLICKR)
    write_npz(raw, entries(FLICKR.values()))
    for package in ("lmdb", "msgpack"):
        monkeypatch.setitem(sys.modules, package, None)
    assert prepare("uniter", tmp_path / "data", raw)["regions"] == (12, 8)
