"""Parquet files as `datasets` writes them, and tar files in the layout of img2dataset, by `webdataset`."""

import io
import json
from pathlib import Path
from typing import Any

import datasets
import webdataset
from datasets import Features, Image, Sequence, Value

from tests.helpers.pictures import picture

datasets.disable_progress_bars()

# nlphuji/flickr30k and lmms-lab/flickr30k: one row an image.
FLICKR = Features(
    {
        "image": Image(),
        "caption": Sequence(Value("string")),
        "sentids": Sequence(Value("string")),
        "split": Value("string"),
        "img_id": Value("string"),
        "filename": Value("string"),
    }
)
# HuggingFaceM4/COCO: one row a caption.
COCO = Features(
    {
        "image": Image(),
        "filepath": Value("string"),
        "sentids": Sequence(Value("int32")),
        "filename": Value("string"),
        "imgid": Value("int32"),
        "split": Value("string"),
        "sentences": {
            "tokens": Sequence(Value("string")),
            "raw": Value("string"),
            "imgid": Value("int32"),
            "sentid": Value("int32"),
        },
        "cocoid": Value("int32"),
    }
)
Rows = tuple[Features, list[dict[str, Any]]]
COLOURS = ("red", "green", "blue", "grey", "black", "white", "pink")


def jpeg(seed: int, size: tuple[int, int] = (20, 12)) -> bytes:
    file = io.BytesIO()
    picture(seed, size).save(file, "JPEG")
    return file.getvalue()


def text(image: int, caption: int) -> str:
    return f"{COLOURS[image % 7]} {COLOURS[image // 7 % 7]} {COLOURS[caption % 7]} picture {image}"


def flickr_rows(images: int, splits=("train", "val", "test"), each: int = 5) -> Rows:
    rows = [
        {
            "image": {"bytes": jpeg(k), "path": f"{k}.jpg"},
            "caption": [text(k, c) for c in range(each)],
            "sentids": [str(k * each + c) for c in range(each)],
            "split": splits[k % len(splits)],
            "img_id": str(k),
            "filename": f"{k}.jpg",
        }
        for k in range(images)
    ]
    return FLICKR, rows


def coco_rows(images: int, each: int = 5, order=None) -> Rows:
    rows = [
        {
            "image": {"bytes": jpeg(k), "path": None},
            "filepath": "val2014",
            "sentids": [k * each + c for c in range(each)],
            "filename": f"COCO_val2014_{k:012d}.jpg",
            "imgid": k,
            "split": ("train", "restval", "val", "test")[k % 4],
            "sentences": {"tokens": ["a"], "raw": text(k, c), "imgid": k, "sentid": k * each + c},
            "cocoid": 1000 + k,
        }
        for c in range(each)
        for k in range(images)
    ]
    return COCO, [rows[k] for k in order] if order is not None else rows


FLICKR_ROWS = flickr_rows(3, each=2)
COCO_ROWS = coco_rows(4, each=2)


def write_parquet(folder: Path, rows: Rows, shards: int = 1, name: str = "test") -> Path:
    """Hugging Face's files of a set: NAME-00000-of-00001.parquet."""
    (folder / "data").mkdir(parents=True)
    features, values = rows
    table = datasets.Dataset.from_list(values, features=features)
    for k in range(shards):
        file = folder / "data" / f"{name}-{k:05d}-of-{shards:05d}.parquet"
        table.shard(shards, k, contiguous=True).to_parquet(str(file))
    return folder


def write_img2dataset(folder: Path, shards: int, each: int, failed: int = 0) -> Path:
    """img2dataset's folder: 00000.tar with KEY.jpg, KEY.txt and KEY.json, and 00000_stats.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as tar:
            for k in range(each):
                tar.write(sample(shard, k, each))
        counts = {"count": each + failed, "successes": each, "failed_to_download": failed}
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(counts | {"failed_to_resize": 0}))
    return folder


def sample(shard: int, k: int, each: int) -> dict[str, Any]:
    """A sample as img2dataset writes it."""
    image = shard * each + k
    fields = {
        "caption": text(image, 0),
        "url": f"https://example.org/{image}.jpg",
        "key": f"{shard:05d}{k:04d}",
        "status": "success",
        "error_message": None,
        "width": 20,
        "height": 12,
    }
    return {
        "__key__": f"{shard:05d}{k:04d}",
        "jpg": jpeg(image),
        "txt": text(image, 0),
        "json": fields,
    }
