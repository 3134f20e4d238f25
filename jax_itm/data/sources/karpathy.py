"""Flickr8k, Flickr30k and COCO in the layouts in which they are distributed: pictures, captions, splits."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jax_itm.data.image_transforms import MAX_PIXELS
from jax_itm.data.sources.captions import Entry, Splits, collect, karpathy, sentence_ids
from jax_itm.data.sources.folder import read_pictures
from jax_itm.data.sources.raw import Raw, read_lines
from jax_itm.errors import UserError

KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
# Captions an image of val and test, as published results count: 25,000 of COCO's 25,010.
MAX_CAPTIONS = 5
KAGGLE = ("results.csv", "captions.txt")
KAGGLE_COLUMNS = (["image_name", "comment_number", "comment"], ["image", "caption"])


@dataclass(frozen=True)
class Layout:
    """How a published set is distributed, and how many images each of its splits has.

    Attributes:
        json: the name of Karpathy's file.
        folders: where the pictures may be.
        counts: the number of images of each of Karpathy's splits.
        steps: how a person obtains the set.
        tokens: the names of the set's own files of captions.
        lists: for each split, the file that lists the names of its images.
        listed: the number of images of each split of the lists, where it differs from `counts`.
    """

    json: str
    folders: tuple[str, ...]
    counts: Mapping[str, int]
    steps: str
    tokens: tuple[str, ...] = ()
    lists: Mapping[str, str] = field(default_factory=dict)
    listed: Mapping[str, int] = field(default_factory=dict)


PUBLISHED = {
    "flickr8k": Layout(
        json="dataset_flickr8k.json",
        folders=("Flicker8k_Dataset", "Flickr8k_Dataset", "images", "Images", "",
                 "Flickr8k_Dataset/Flicker8k_Dataset"),
        counts={"train": 6000, "val": 1000, "test": 1000},
        tokens=("Flickr8k.token.txt", "captions.txt"),
        lists={
            "train": "Flickr_8k.trainImages.txt",
            "val": "Flickr_8k.devImages.txt",
            "test": "Flickr_8k.testImages.txt",
        },
        steps="ask for Flickr8k_Dataset.zip and Flickr8k_text.zip by the form of the University of Illinois"
        " (https://illinois.edu/fb/sec/1713398) and unpack both into DIR",
    ),
    "flickr30k": Layout(
        json="dataset_flickr30k.json",
        folders=("", "images", "flickr30k-images", "flickr30k_images", "flickr30k_images/flickr30k_images"),
        counts={"train": 29000, "val": 1014, "test": 1000},
        tokens=("results_20130124.token", "results.csv", "captions.txt"),
        lists={"train": "train.txt", "val": "val.txt", "test": "test.txt"},
        listed={"train": 29783, "val": 1000, "test": 1000},
        steps="ask for the pictures by the form at https://shannon.cs.illinois.edu/DenotationGraph, unpack"
        f" flickr30k-images into DIR, and put dataset_flickr30k.json of {KARPATHY} beside it",
    ),
    "coco": Layout(
        json="dataset_coco.json",
        folders=("", "images", *(f"{above}{split}{year}" for year in (2014, 2017)
                                 for above in ("", "images/") for split in ("train", "val"))),
        counts={"train": 113287, "val": 5000, "test": 5000},
        steps="unpack http://images.cocodataset.org/zips/train2014.zip and val2014.zip into DIR, and put"
        f" dataset_coco.json of {KARPATHY} beside them",
    ),
}  # fmt: skip


def read_published(name: str, source: Path, max_pixels: int = MAX_PIXELS) -> Raw:
    """The pictures of a published set with its captions, in a directory or next to the file of captions.

    The captions are Karpathy's JSON (`restval` becomes train) or, where that is absent, the set's own file
    with the lists of its splits' images, one name a line (with or without `.jpg`):

        Flickr8k.token.txt, results_20130124.token   ID.jpg#k <tab> caption
        results.csv (Kaggle)                          ID.jpg| k| caption
        captions.txt (Kaggle)                         image,caption, as CSV

    Each may be one folder deeper. The lists decide: captions of an image on no list are not used, and an
    image on a list must have captions and a picture. COCO's pictures are in train2014 and val2014, in the
    folders of the release of 2017, or all in one folder. Images of val and test keep their first five
    captions. `Raw.kind` is "karpathy" or "lists".

    Raises:
        UserError: a file, a picture, or the captions of a listed image are missing, or a line is wrong.
    """
    layout = PUBLISHED[name]
    base = source if source.is_dir() else source.parent
    table = source if source.is_file() else _find(base, (layout.json, *layout.tokens))
    if table is None:
        wanted = " nor ".join((layout.json, *layout.tokens))
        raise UserError(f"{base}: no {wanted}: {layout.steps}")
    if table.suffix == ".json":
        kind = "karpathy"
        published = layout.counts
        entries = karpathy(table)
    elif layout.lists:
        kind = "lists"
        published = layout.listed or layout.counts
        entries = _listed(table, base, layout)
    else:
        raise UserError(f"{table}: captions of {name} must be {layout.json}")
    splits = collect(table, entries)
    counts = {split: len(images) for split, images in splits.items()}
    notes = [*_cut_captions(splits), *differing_counts(counts, published)]
    raw = read_pictures(base, splits, layout.folders, max_pixels, by_name=True)
    lists = [_find(base, [name]) for name in layout.lists.values()] if kind == "lists" else []
    files = (table, *filter(None, lists), *raw.files)
    ids = sentence_ids(table, splits)
    return replace(raw, kind=kind, notes=tuple(notes), source_ids=ids, files=files)


def _find(base: Path, names: Sequence[str]) -> Path | None:
    """The first of the files that is in a directory, or one folder deeper."""
    candidates = (file for name in names for file in (base / name, *sorted(base.glob(f"*/{name}"))))
    return next((file for file in candidates if file.is_file()), None)


def _listed(table: Path, base: Path, layout: Layout) -> Iterator[Entry]:
    """The captions of the images on the lists of the splits, list by list."""
    captions: dict[str, list[str]] = {}
    listed: set[tuple[str, str]] = set()
    read = _kaggle if table.name in KAGGLE else _tokens
    for image, caption in read(table):
        captions.setdefault(image, []).append(caption)
    for split, name in layout.lists.items():
        file = _find(base, [name])
        if file is None:
            raise UserError(
                f"{base}: captions in {table.name} need the lists of the splits, no {name};"
                f" or put {layout.json} of {KARPATHY} there"
            )
        for number, line in enumerate(read_lines(file), start=1):
            image = line if line.endswith(".jpg") else f"{line}.jpg"
            if image not in captions:
                raise UserError(f"{file}:{number}: no captions of {image} in {table}")
            if (image, split) in listed:
                raise UserError(f"{file}:{number}: {image} is listed twice")
            listed.add((image, split))
            yield f"{file}:{number}", split, image, captions[image]


def _tokens(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_lines(path), start=1):
        match = re.fullmatch(r"(\S+)#\d+\s+(.+)", line)
        if not match:
            raise UserError(f"{path}:{number}: must be ID.jpg#k, a tab and the caption")
        yield match[1], match[2]


def _kaggle(path: Path) -> Iterator[tuple[str, str]]:
    """Kaggle's files, whose first line names the columns."""
    lines = read_lines(path)
    columns = [cell.strip() for cell in re.split(r"[|,]", lines[0])] if lines else []
    if columns not in KAGGLE_COLUMNS:
        raise UserError(
            f"{path}:1: must name the columns: image_name| comment_number| comment, or image,caption"
        )
    for number, line in enumerate(lines[1:], start=2):
        # One line of results.csv, of 2199200615.jpg, lacks its second bar. A caption never begins with one.
        match = re.fullmatch(r"([^|,]*[^|,\s])\s*\|\s*\d+(?:\s*\||\s)\s*([^|\s].*)", line)
        try:
            cells = match.groups() if match else next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise UserError(f"{path}:{number}: not CSV ({error})") from error
        if len(cells) != 2 or not all(cells):
            raise UserError(f"{path}:{number}: must be ID.jpg| k| caption, or ID.jpg,caption; never empty")
        yield cells[0], cells[1]


def _cut_captions(splits: Splits) -> Iterator[str]:
    """Keeps the first five captions of each image of val and test; says where there were more."""
    for split in [name for name in splits if name != "train"]:
        total = sum(map(len, splits[split].values()))
        for image, captions in splits[split].items():
            splits[split][image] = captions[:MAX_CAPTIONS]
        kept = sum(map(len, splits[split].values()))
        if kept < total:
            yield f"{split}: {kept:,} of {total:,} captions, the first {MAX_CAPTIONS} an image"


def differing_counts(counts: Mapping[str, int], published: Mapping[str, int]) -> Iterator[str]:
    """A line for each split whose number of images is not the published one."""
    for split, count in published.items():
        if counts.get(split, 0) != count:
            yield f"{split}: {counts.get(split, 0):,} images, the published split has {count:,}"
