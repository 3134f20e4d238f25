"""Region features in tab-separated base64, as bottom-up attention and LXMERT write them."""

import numpy as np
import pytest

from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from tests.helpers.bottom_up import BOXES, NAMES, SIX, TEN, text, tsv_row, write_tsv
from tests.helpers.errors import refuses


@pytest.mark.parametrize("fields", [SIX, TEN])
@pytest.mark.parametrize("named", ["9", "000000000009", NAMES[0].removesuffix(".jpg")])
@pytest.mark.parametrize("header", [False, True])
def test_layouts(tmp_path, fields, named, header):
    raw = write_tsv(tmp_path / "raw", [fields] * header + [tsv_row("77", fields), tsv_row("42", fields)])
    write_tsv(raw, [tsv_row(named, fields), tsv_row("42", fields, boxes="AAAA")], name="more.tsv")
    facts = prepare("bottom_up_tsv", tmp_path / "data", raw)
    assert facts["splits"]["test"] == {"images": 1, "captions": 5}
    for split, value in (("train", 9), ("test", 42)):
        record = open_split("bottom_up_tsv", tmp_path / "data", split, "regions").record(0)
        np.testing.assert_array_equal(record["regions"], np.full((3, 5), value))
        expected = [[0, 0, 1, 1], [0.25, 0.2, 0.7525, 0.8], [0, 0.5, 1, 1]]
        np.testing.assert_allclose(record["boxes"], expected, rtol=1e-6)


def test_the_first_line_of_an_image_that_is_not_broken(tmp_path):
    cut = [tsv_row("9", SIX)[:4], tsv_row("9", SIX, features=text(BOXES)[:-3]), tsv_row("9", SIX)]
    raw = write_tsv(tmp_path / "raw", [tsv_row("77", SIX), *cut, tsv_row("42", SIX), tsv_row("42", SIX)[:5]])
    summary = prepare("bottom_up_tsv", tmp_path / "data", raw)
    assert summary["tally"] == {"broken lines, of whose images a later one was taken": 2}
    record = open_split("bottom_up_tsv", tmp_path / "data", "train", "regions").record(0)
    np.testing.assert_array_equal(record["regions"], np.full((3, 5), 9))


@pytest.mark.parametrize(
    ("names", "ids", "missing"),
    [
        (("dog_9.jpg", "42.jpg"), ("9", "42"), "dog_9.jpg"),  # dog_9 is no number
        (("dog_9.jpg", "42.jpg"), ("cat_09", "42"), "dog_9.jpg"),
        (("9.jpg", "42.jpg"), ("a_09", "42"), "9.jpg"),
        (("9.jpg", "img_000042.jpg"), ("0009", "42"), "img_000042.jpg"),
    ],
)
def test_only_numbers_and_names_of_coco_match_by_number(tmp_path, names, ids, missing):
    raw = write_tsv(tmp_path / "raw", [tsv_row(name, SIX) for name in ids], captions=names)
    refuses(tmp_path, "bottom_up_tsv", raw, f"no features of val2014/{missing} in .* \\(1 of 2 images")


def test_two_pictures_with_the_features_of_one(tmp_path):
    names = ("COCO_train2014_000000000009.jpg", "9.jpg")
    raw = write_tsv(tmp_path / "raw", [tsv_row("9", SIX)], captions=names)
    refuses(tmp_path, "bottom_up_tsv", raw, r"9\.jpg: is the same as val2014/COCO_.* both are .*tsv:1")


nine = lambda **changes: [tsv_row("9", SIX, **changes), tsv_row("42", SIX)]
FAULTS = {
    "fields": ([tsv_row("9", SIX)[:5]], r"features\.tsv:1: 5 fields, must be 6 or 10"),
    "cut": ([tsv_row("9", SIX), tsv_row("42", SIX)[:4]], r"features\.tsv:2: 4 fields, must be 6"),
    "all cut": (
        [tsv_row("9", SIX), tsv_row("42", SIX)[:4], tsv_row("42", SIX)[:5]],
        r"features\.tsv:2: 4 fields, must be 6",
    ),
    "header": ([("image_id", "features"), ("9", "")], r"features\.tsv:1: needs the fields img_id, img_w"),
    "num_boxes": (nine(num_boxes="none"), r"features\.tsv:1: num_boxes is 'none', must be 1 or more"),
    "zero": (nine(num_boxes="0"), "num_boxes is '0', must be 1 or more"),
    "width": (nine(w="-3"), "img_w is '-3'"),
    "box count": (nine(num_boxes="2"), r"boxes has 12 numbers, num_boxes 2 needs 8"),
    "base64": (nine(boxes="A*A="), "boxes is not base64 of 3 rows"),
    "truncated": (nine(features=text(BOXES)[:-7]), "features is not base64 of 3 rows of float32"),
    "half a float": (nine(features=text(np.zeros(3, np.int16))), "features is not base64 of 3 rows"),
    "swapped": (nine(w="100", h="200"), r"features\.tsv:1: boxes: row 0 is not .* within 100 x 200 pixels"),
    "nan": (nine(boxes=text(BOXES * np.float32(np.nan))), "boxes: row 0 is not"),
    "order": (nine(boxes=text(BOXES[:, [2, 3, 0, 1]])), "boxes: row 0 is not x1 y1 x2 y2"),
    "overflow": (nine(features=text(np.full((3, 5), 1e9, np.float32))), "a region is not finite in float16"),
    "sizes": (nine(features=text(BOXES)), r"features\.tsv:2: features of size 5, the first image's 4"),
    "missing": (
        [tsv_row("9", SIX)],
        r"no features of val2014/COCO_val2014.* in features\.tsv \(1 of 2 images",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refuses(tmp_path, fault):
    rows, message = FAULTS[fault]
    refuses(tmp_path, "bottom_up_tsv", write_tsv(tmp_path / "raw", rows), message)


def test_refuses_without_files(tmp_path):
    raw = write_tsv(tmp_path / "raw", [tsv_row("9", SIX)])
    (raw / "features.tsv").unlink()
    refuses(tmp_path, "bottom_up_tsv", raw, r"raw: no \.tsv file of features")


def test_real_features(tmp_path, real_data):
    real = real_data / "bottom_up_tsv"
    refuses(tmp_path, "bottom_up_tsv", real, "needs one .json, .jsonl or .csv file of captions, found none")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train2014_obj36.tsv").symlink_to(real / "train2014_obj36.tsv")
    numbers = [line.split("\t")[0] for line in (real / "train2014_obj36.tsv").open()]
    rows = [f"{number}.jpg,A caption of {number}\n" for number in numbers]
    (tmp_path / "raw" / "captions.csv").write_text("path,caption\n" + "".join(rows))
    facts = prepare("bottom_up_tsv", tmp_path / "data", tmp_path / "raw")
    assert facts["splits"] == {"train": {"images": 10, "captions": 10}} and facts["regions"] == (36, 2048)
    boxes = open_split("bottom_up_tsv", tmp_path / "data", "train", "regions").record(0)["boxes"]
    assert boxes.min() == 0 and 0.99 < boxes[:, 2].max() <= 1
