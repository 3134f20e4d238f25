"""Flickr8k, Flickr30k and COCO in the layouts in which they are handed out."""

import json

import numpy as np
import pytest
from PIL import Image

from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from tests.helpers.errors import refuses
from tests.helpers.pictures import picture

F30K = ["36979.jpg", "65567.jpg", "81641.jpg", "134206.jpg"]


def pictures(folder, names):
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(k).save(folder / name)
    return folder


def karpathy(file, rows, captions=5):
    """rows: (filepath or None, filename, split)."""
    images = []
    for k, (folder, name, split) in enumerate(rows):
        sentences = [{"raw": f"Caption {c} of {name} .", "tokens": ["caption"]} for c in range(captions)]
        image = {"filename": name, "split": split, "sentences": sentences, "imgid": k}
        images.append(image | ({"filepath": folder} if folder else {}))
    file.write_text(json.dumps({"images": images, "dataset": "some"}))


def tokens(names, line="{name}#{k}\tCaption {k} of {name} .\n"):
    return "".join(line.format(name=name, k=k) for name in names for k in range(5))


def lists(folder, form="{}.txt", end="", splits=("train", "val", "test")):
    for split, names in zip(splits, (F30K[:2], F30K[2:3], F30K[3:]), strict=True):
        lines = [name.removesuffix(".jpg") + end for name in names]
        (folder / form.format(split)).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("where", ["", "images", "flickr30k-images", "flickr30k_images"])
def test_flickr30k_karpathy(tmp_path, where):
    pictures(tmp_path / "raw" / where, F30K)
    rows = zip([None] * 4, F30K, ("train", "train", "val", "test"), strict=True)
    karpathy(tmp_path / "raw" / "dataset_flickr30k.json", rows)
    facts = prepare("flickr30k", tmp_path / "data", tmp_path / "raw")
    assert facts["kind"] == "karpathy" and facts["features"] == ["image"]
    assert facts["splits"]["train"] == {"images": 2, "captions": 10}
    assert facts["notes"][0] == "train: 2 images, the published split has 29,000"
    split = open_split("flickr30k", tmp_path / "data", "test", "pixels")
    assert split.captions()[4] == "Caption 4 of 134206.jpg ."
    np.testing.assert_array_equal(split.picture(0), Image.open(tmp_path / "raw" / where / F30K[3]))


def test_captions_keep_the_ids_of_their_source(tmp_path):
    """COCO's annotations, by which ECCV Caption names captions; kept of each caption that is used."""
    raw = pictures(tmp_path / "raw", F30K)
    karpathy(raw / "dataset_flickr30k.json", zip([None] * 4, F30K, ["train", *["test"] * 3], strict=True), 7)
    table = json.loads((raw / "dataset_flickr30k.json").read_text())
    for k, image in enumerate(table["images"]):
        for c, sentence in enumerate(image["sentences"]):
            sentence["sentid"] = 1000 * k + 7 * (c % 3) + c
    (raw / "dataset_flickr30k.json").write_text(json.dumps(table))
    prepare("flickr30k", tmp_path / "data", raw)
    split = open_split("flickr30k", tmp_path / "data", "test", "pixels")
    assert split.source_ids == [1000 * k + 7 * (c % 3) + c for k in (1, 2, 3) for c in range(5)]
    assert split.first(2).source_ids == split.source_ids[:10]
    assert split.image_name(1) == F30K[2]
    del table["images"][3]["sentences"][6]["sentid"]
    (raw / "dataset_flickr30k.json").write_text(json.dumps(table))
    prepare("flickr30k", tmp_path / "partly", raw)
    assert open_split("flickr30k", tmp_path / "partly", "test", "pixels").source_ids == []


KAGGLE = "image_name| comment_number| comment\n"


@pytest.mark.parametrize("file", ["results_20130124.token", "results.csv", "captions.txt"])
def test_flickr30k_lists(tmp_path, file):
    raw = pictures(tmp_path / "raw" / "flickr30k_images", F30K).parent
    named = [*F30K, "1000.jpg"]  # has captions, is on no list, and has no picture
    text = {
        "results_20130124.token": tokens(named),
        "results.csv": KAGGLE + tokens(named, "{name}| {k}| Caption {k} of {name} .\n"),
        "captions.txt": "image,caption\n" + tokens(named, '{name},"Caption {k} of {name} ."\n'),
    }[file]
    # One line of Kaggle's file is so: its second bar is missing.
    (raw / file).write_text(text.replace("81641.jpg| 4| ", "81641.jpg| 4   "))
    lists(raw)
    facts = prepare("flickr30k", tmp_path / "data", raw)
    assert facts["kind"] == "lists"
    assert {s: n["captions"] for s, n in facts["splits"].items()} == {"train": 10, "val": 5, "test": 5}
    assert facts["notes"][0] == "train: 2 images, the published split has 29,783"
    split = open_split("flickr30k", tmp_path / "data", "val", "pixels")
    assert split.captions() == [f"Caption {k} of 81641.jpg ." for k in range(5)]


def test_flickr8k_original_files(tmp_path):
    raw = pictures(tmp_path / "raw" / "Flicker8k_Dataset", F30K).parent
    (raw / "Flickr8k_text").mkdir()
    text = tokens([*F30K, "2258277193_586949ec62.jpg.1"])
    (raw / "Flickr8k_text" / "Flickr8k.token.txt").write_text(text)
    lists(raw / "Flickr8k_text", "Flickr_8k.{}Images.txt", ".jpg", ("train", "dev", "test"))
    facts = prepare("flickr8k", tmp_path / "data", raw)
    assert facts["kind"] == "lists" and list(facts["splits"]) == ["train", "val", "test"]
    assert facts["notes"][1] == "val: 1 images, the published split has 1,000"


def test_named_file_wins(tmp_path):
    raw = pictures(tmp_path / "raw", F30K)
    karpathy(raw / "dataset_flickr30k.json", [(None, F30K[0], "test")])
    (raw / "results_20130124.token").write_text(tokens(F30K))
    lists(raw)
    assert prepare("flickr30k", tmp_path / "a", raw)["kind"] == "karpathy"
    assert prepare("flickr30k", tmp_path / "b", raw / "results_20130124.token")["kind"] == "lists"


COCO = [("train2014", "COCO_train2014_000000000009.jpg", "train"),
        ("val2014", "COCO_val2014_000000000042.jpg", "restval"),
        ("val2014", "COCO_val2014_000000000073.jpg", "val"),
        ("val2014", "COCO_val2014_000000000074.jpg", "test")]  # fmt: skip


@pytest.mark.parametrize("form", ["{0}/{1}", "{1}", "images/{0}/{1}", "train2017/{2}"])
def test_coco(tmp_path, form):
    names = [form.format(folder, name, name[-16:]) for folder, name, _ in COCO]
    raw = pictures(tmp_path / "raw", names)
    karpathy(raw / "dataset_coco.json", COCO, captions=6)
    facts = prepare("coco", tmp_path / "data", raw)
    assert facts["splits"]["train"] == {"images": 2, "captions": 12}
    assert facts["splits"]["test"] == {"images": 1, "captions": 5}
    assert "test: 5 of 6 captions, the first 5 an image" in facts["notes"]
    split = open_split("coco", tmp_path / "data", "train", "pixels")
    np.testing.assert_array_equal(split.picture(1), Image.open(raw / names[1]))


def folder(tmp_path, files, names=F30K):
    raw = pictures(tmp_path / "raw" / "images", names).parent
    lists(raw)
    for name, text in files.items():
        (raw / name).write_text(text)
    return raw


TOKEN = "results_20130124.token"
FAULTS = {
    "no captions": ({}, "raw: no dataset_flickr30k.json nor results_20130124.token .*ask for the pictures"),
    "token": ({TOKEN: "36979.jpg#0 \n"}, r"token:1: must be ID\.jpg#k, a tab"),
    "token latter": ({TOKEN: tokens(F30K) + "36979.jpg\tA dog\n"}, r"token:21: must be ID\.jpg#k"),
    "kaggle": ({"results.csv": KAGGLE + "36979.jpg| A dog\n"}, r"results\.csv:2: must be ID\.jpg\| k\|"),
    "kaggle blank": ({"results.csv": KAGGLE + "36979.jpg| 0|  \n"}, r"results\.csv:2: must be ID\.jpg\| k\|"),
    "kaggle bars": ({"results.csv": KAGGLE + "36979.jpg| 0| | \n"}, r"results\.csv:2: must be ID\.jpg\| k\|"),
    "kaggle comma": ({"captions.txt": "image,caption\n36979.jpg,\n"}, r"captions\.txt:2: must be ID"),
    "kaggle header": ({"results.csv": "36979.jpg| 0| A dog\n"}, r"results\.csv:1: must name the columns"),
    "kaggle empty": ({"captions.txt": ""}, r"captions\.txt:1: must name the columns"),
    "kaggle csv": ({"captions.txt": "image,caption\n1.jpg,A dog, a cat\n"}, r"captions\.txt:2: must be"),
    "uncaptioned": ({TOKEN: tokens(F30K[:3])}, r"test\.txt:1: no captions of 134206\.jpg in .*token"),
    "empty list": ({TOKEN: tokens(F30K), "val.txt": "1\n\n2\n"}, r"val\.txt:2: empty line"),
    "listed twice": (
        {TOKEN: tokens(F30K), "val.txt": "81641\n81641\n"},
        r"val\.txt:2: 81641\.jpg is listed tw",
    ),
    "two lists": ({TOKEN: tokens(F30K), "val.txt": "36979\n"}, r"val\.txt:1: 36979\.jpg is in the split 'tr"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_flickr30k_refuses(tmp_path, fault):
    files, message = FAULTS[fault]
    refuses(tmp_path, "flickr30k", folder(tmp_path, files), message)


def test_missing_files_are_named(tmp_path):
    raw = folder(tmp_path, {TOKEN: tokens(F30K)}, F30K[:2])
    refuses(tmp_path, "flickr30k", raw, r"81641\.jpg: no such image in .*flickr30k-images.*\(2 of 4 are")
    (raw / "val.txt").unlink()
    refuses(tmp_path, "flickr30k", raw, r"need the lists of the splits, no val\.txt; or put dataset_f")
    refuses(tmp_path, "flickr8k", None, "--source: flickr8k is made from raw files.*ask for Flickr8k_Data")
    (raw / "captions.csv").write_text("path,caption\n36979.jpg,A dog\n")
    refuses(tmp_path, "coco", raw / "captions.csv", "captions of coco must be dataset_coco.json")


def test_coco_refuses_paths_out_of_the_folder(tmp_path):
    raw = pictures(tmp_path / "raw", ["a.jpg"])
    karpathy(raw / "dataset_coco.json", [("../up", "a.jpg", "train")])
    refuses(tmp_path, "coco", raw, r"\.\./up/a\.jpg: image paths must stay inside")


def test_real_flickr8k(tmp_path, real_data):
    facts = prepare("flickr8k", tmp_path / "data", real_data / "flickr8k")
    assert facts["splits"] == {
        "train": {"images": 2000, "captions": 10000},
        "val": {"images": 500, "captions": 2500},
    }
