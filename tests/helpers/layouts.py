"""Small valid files of every layout of raw data, and what every record read from them must be."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_itm.data.images import read_picture
from jax_itm.data.sources.entities import with_phrases
from jax_itm.data.sources.raw import Raw, Record, caption, image_name
from jax_itm.data.sources.registry import data_set
from tests.helpers.bottom_up import SIX, TEN, tsv_row, write_tsv
from tests.helpers.entities import annotate, flickr30k
from tests.helpers.pictures import karpathy, picture
from tests.helpers.precomp import write_precomp
from tests.helpers.shards import COCO_ROWS, FLICKR_ROWS, write_img2dataset, write_parquet
from tests.helpers.uniter_features import (
    DEFAULT,
    FLICKR,
    entries,
    packed,
    write_captions,
    write_lmdb,
    zipped,
)

Files = dict[str, bytes]


def write_files(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read_files(folder: Path) -> Files:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def check_record(record: Record, raw: Raw) -> None:
    """Asserts what the rest of the package relies on."""
    assert set(raw.features) <= record.keys()
    assert image_name(record["name"], "") == record["name"]
    assert record["captions"] and [caption(c, "") for c in record["captions"]] == record["captions"]
    if "regions" in record:
        assert record["regions"].dtype == np.float16 and np.isfinite(record["regions"]).all()
        assert record["regions"].shape == (len(record["regions"]), raw.region_dim) and record["regions"].size
    if "boxes" in record:
        boxes = record["boxes"]
        assert boxes.dtype == np.float32 and boxes.shape[1:] == (4,)
        assert ((boxes >= 0) & (boxes <= 1)).all() and (boxes[:, :2] <= boxes[:, 2:]).all()
    if "regions" in record and "boxes" in record:
        assert len(record["boxes"]) == len(record["regions"])
    if "image" in record:
        image = record["image"]
        assert (read_picture(image) if isinstance(image, bytes) else image).dtype == np.uint8
    for phrase in record.get("phrases", ()):
        assert 0 <= phrase["start"] < phrase["end"] <= len(record["captions"][phrase["caption"]])
        assert 0 <= phrase["box"] < len(record["boxes"])


def read_all(raw: Raw) -> None:
    """Reads and checks every record."""
    for read in raw.splits.values():
        for record in read():
            check_record(record, raw)


class Layout(NamedTuple):
    """Valid files of a data set, and how a folder is built from them after one has been mutated."""

    dataset: str
    write: Callable[[Path], object]
    spared: tuple[str, ...] = ()  # suffixes of the files that are not mutated, because other layouts do so
    build: Callable[[Path, Files], Path] = write_files
    is_in_shards: bool = False  # pictures are not decoded, and what is finished stays

    def read(self, folder: Path) -> Raw:
        read = data_set(self.dataset).read_source
        assert read
        raw = read(folder)
        return with_phrases(raw, folder / "entities") if (folder / "entities").exists() else raw


def small_pictures(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for k, kind in enumerate(("jpg", "png", "gif")):
        picture(k, (7, 5)).save(folder / "images" / f"{k}.{kind}")


def folder_of(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        small_pictures(folder)
        (folder / name).write_text(text)

    return write


def databases(name: str) -> tuple[Callable[[Path], object], Callable[[Path, Files], Path]]:
    """Writes captions and a database's values, each in a file; builds the database from these."""

    def write(folder: Path) -> None:
        encode = zipped if name.endswith("_compressed") else packed
        write_files(
            write_captions(folder, FLICKR),
            {f"values/{k}": encode(v) for k, v in entries(FLICKR.values()).items()},
        )

    def build(folder: Path, files: Files) -> Path:
        values = {k.removeprefix("values/"): v for k, v in files.items() if k.startswith("values/")}
        write_files(folder, {k: v for k, v in files.items() if not k.startswith("values/")})
        write_lmdb(folder / name, {k: v for k, v in values.items() if v})
        return folder

    return write, build


def complete_database(folder: Path) -> None:
    values = {k: packed(v) for k, v in entries(FLICKR.values()).items()}
    write_lmdb(write_captions(folder, FLICKR) / DEFAULT, values)


def npz_files(folder: Path) -> None:
    write_files(write_captions(folder, FLICKR), {k: zipped(v) for k, v in entries(FLICKR.values()).items()})


def with_entities(folder: Path) -> None:
    flickr30k(folder)
    annotate(folder / "entities", "012")


TOKEN_LINES = "".join(f"{k}.jpg#{c}\tCaption {c} of {k} .\n" for k in range(3) for c in range(2))

KAGGLE_LINES = "image,caption\n" + "".join(
    f'{k}.jpg,"Caption {c} of {k} ."\n' for k in range(3) for c in range(2)
)


def flickr8k(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "images").mkdir(parents=True)
        for k, split in enumerate(("train", "dev", "test")):
            picture(k, (7, 5)).save(folder / "images" / f"{k}.jpg")
            (folder / f"Flickr_8k.{split}Images.txt").write_text(f"{k}.jpg\n")
        (folder / name).write_text(text)

    return write


KARPATHY = karpathy(filename="1.png")

ROWS = [
    {"path": f"images/{k}.{kind}", "caption": f"A dog {k}"} for k, kind in enumerate(("jpg", "png", "gif"))
]

CSV = "path,caption,split\n" + "".join(f'"{r["path"]}",{r["caption"]},val\n' for r in ROWS)

JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)

MSGPACK, COMPRESSED = databases(DEFAULT), databases("all_compressed")

PICTURES = (".jpg", ".png", ".gif")

SIX_LINES, TEN_LINES = [tsv_row("9", SIX), tsv_row("42", SIX)], [TEN, tsv_row("9", TEN), tsv_row("42", TEN)]

LAYOUTS = {
    "precomp": Layout("precomp", partial(write_precomp, images=2, each=2)),
    "csv": Layout("folder", folder_of("a.csv", CSV)),
    "jsonl": Layout("folder", folder_of("a.jsonl", JSONL), PICTURES),
    "karpathy": Layout("folder", folder_of("a.json", json.dumps(KARPATHY)), PICTURES),
    "tokens": Layout("flickr8k", flickr8k("Flickr8k.token.txt", TOKEN_LINES), PICTURES),
    "kaggle": Layout("flickr8k", flickr8k("captions.txt", KAGGLE_LINES), PICTURES),
    "tsv": Layout("bottom_up_tsv", partial(write_tsv, rows=SIX_LINES)),
    "lxmert": Layout("bottom_up_tsv", partial(write_tsv, rows=TEN_LINES)),
    "npz": Layout("uniter", npz_files),
    "msgpack": Layout("uniter", MSGPACK[0], (), MSGPACK[1]),
    "lmdb": Layout("uniter", complete_database, (".json", ".csv", "lock.mdb")),
    "compressed": Layout("uniter", COMPRESSED[0], (), COMPRESSED[1]),
    "parquet": Layout("huggingface", partial(write_parquet, rows=FLICKR_ROWS), is_in_shards=True),
    "parquet_coco": Layout("huggingface", partial(write_parquet, rows=COCO_ROWS), is_in_shards=True),
    "tar": Layout("webdataset", partial(write_img2dataset, shards=2, each=3), is_in_shards=True),
    "entities": Layout("flickr30k", with_entities, (*PICTURES, ".token")),
}
