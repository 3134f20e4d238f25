"""Opening the data sets that `prepare` has built.

A record is an image: `image_id`, `name`, `captions`, `caption_ids`, and, depending on the source, `image`
(encoded), `regions` (r, f) float16, `boxes` (r, 4) float32, `phrases`. Ids number the images and captions of
a split from 0. The metadata repeat all captions, so that these can be read without the regions: 30 MB instead
of 17 GB for COCO.
"""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow_datasets as tfds

from jax_itm.data.sources.registry import data_set
from jax_itm.data.split import Split
from jax_itm.data.tfds_builder import min_median_max
from jax_itm.errors import UserError
from jax_itm.storage import local_path

VERSION = "1.0.0"  # of the layout on disk
FEATURES = {"regions": "regions", "pixels": "image"}  # what a record needs for each modality


def open_split(name: str, data_dir: str | Path, split: str, modality: str) -> Split:
    """Opens a split of a prepared data set.

    Args:
        name: the data set.
        data_dir: the directory in which it was prepared.
        split: one of its splits; "val" also opens SCAN's "dev".
        modality: what to read of an image: "regions" or "pixels".

    Raises:
        UserError: the set is not prepared or damaged, or it has no such split or modality.
    """
    builder = open_builder(_dataset_path(name, data_dir))
    if split == "val" and split not in builder.info.splits and "dev" in builder.info.splits:
        split = "dev"
    if split not in builder.info.splits:
        raise UserError(f"{name}: no split {split!r}; there are {', '.join(builder.info.splits)}")
    available = [each for each, feature in FEATURES.items() if feature in builder.info.features]
    if modality not in available:
        raise UserError(f"{name}: no {modality!r} to read; it has {', '.join(available)}")
    return Split(builder, split, modality)


def splits_of(name: str, data_dir: str | Path) -> list[str]:
    """The names of the splits of a prepared data set."""
    return list(open_builder(_dataset_path(name, data_dir)).info.metadata["captions"])


def describe(name: str, data_dir: str | Path) -> dict[str, Any]:
    """What a prepared data set has, without reading any image but the first.

    Returns:
        "name"; "path"; "source" or None; "splits": {split: {"images", "captions"}}; "spreads": {split:
        {"captions an image", "words", and "width" and "height" or "regions": [minimum, median, maximum]}};
        "features" of its records; "regions": the shape of those of the first image, or None; "kind" of
        splits, such as "karpathy"; "notes": lines for the user; "tally": {what: how often} of
        pictures and phrases.

    Raises:
        UserError: it is not prepared, or damaged.
    """
    path = _dataset_path(name, data_dir)
    builder = open_builder(path)
    metadata = builder.info.metadata
    features = builder.info.features
    captions = metadata["captions"]
    modality = "regions" if "regions" in features else "pixels"
    first = Split(builder, next(iter(captions)), modality).record(0)
    return {
        "name": builder.name,
        "path": str(path),
        "source": metadata["source"],
        "splits": {
            split: {"images": len(images), "captions": sum(map(len, images))}
            for split, images in captions.items()
        },
        "spreads": {
            split: _caption_spreads(images) | metadata["sizes"][split] for split, images in captions.items()
        },
        "features": [key for key in ("image", "regions", "boxes", "phrases") if key in features],
        "regions": first["regions"].shape if "regions" in first else None,
        "kind": metadata["kind"],
        "notes": metadata["notes"],
        "tally": metadata["tally"],
    }


def _caption_spreads(images: list[list[str]]) -> dict[str, list[int]]:
    words = [len(caption.split()) for captions in images for caption in captions]
    per_image = [len(captions) for captions in images]
    return {"captions an image": min_median_max(per_image), "words": min_median_max(words)}


def _dataset_path(name: str, data_dir: str | Path) -> Path:
    """The folder of a prepared data set; UserError where there is none."""
    known = data_set(name)
    path = local_path(data_dir, "--data_dir") / name / VERSION
    if not path.exists():
        source = " --source DIR" if known.read_source else ""
        raise UserError(
            f"{name} is not prepared in {data_dir}: python -m jax_itm prepare {name}{source}"
            f" --data_dir {data_dir}"
        )
    return path


def open_builder(path: Path) -> Any:
    """The TFDS builder of a prepared data set's folder; UserError where it is damaged."""
    try:
        builder: Any = tfds.builder_from_directory(os.fspath(path))
        _check_metadata(builder.info.metadata, builder.info.splits)
        return builder
    except Exception as error:  # TFDS raises exceptions of every kind
        raise UserError(f"{path}: damaged; remove it and prepare it again ({error})") from error


def _check_metadata(metadata: dict[str, Any], splits: Any) -> None:
    """Raises any exception where the metadata are not as `tfds_builder.Builder` writes them."""
    dim = metadata["region_dim"]
    if not (dim is None or (type(dim) is int and dim > 0)) or metadata["captions"].keys() != set(splits):
        raise ValueError("the metadata belong to another data set")
    for split, images in metadata["captions"].items():
        complete = len(images) == splits[split].num_examples and type(metadata["max_regions"][split]) is int
        if not complete or not all(texts and all(type(text) is str for text in texts) for texts in images):
            raise ValueError(f"the captions of {split} do not match its images, or are not text")
        for spread in metadata["sizes"][split].values():
            if [type(number) for number in spread] != [int] * 3:
                raise ValueError(f"the sizes of {split} are not numbers")
    texts = [metadata["source"] or "", metadata["kind"], *metadata["notes"]]
    counts = metadata["tally"].values()
    if not all(type(text) is str for text in texts) or not all(type(count) is int for count in counts):
        raise ValueError("source, kind, notes or tally have the wrong type")
