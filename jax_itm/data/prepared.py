"""Data sets on disk: `prepare` builds one with TFDS, `open_split` reads it.

A record is an image: `image_id`, `name`, `captions`, `caption_ids`, and, as the set has them,
`image` (encoded), `regions` (r, f) float16, `boxes` (r, 4) float32, `phrases`. Ids number the
split's images and captions from 0. The metadata hold all captions once more, so that they are read
without reading the regions: 30 MB instead of 17 GB of COCO.
"""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow_datasets as tfds

from jax_itm.data.sources.registry import NAMES, READERS
from jax_itm.data.split import Split
from jax_itm.data.tfds_builder import spread
from jax_itm.errors import UserError
from jax_itm.storage import local_path

VERSION = "1.0.0"


def describe(name: str, data_dir: str | Path) -> dict[str, Any]:
    """What a prepared data set holds, read without its images but the first.

    Returns:
        {"name", "path", "source": or None, "splits": {split: {"images", "captions"}}, "spreads": {split:
        {"captions an image", "words", and "width" and "height" or "regions": [least, median, most]}},
        "holds", "regions": shape of the first image's, or None, "kind": of splits, "notes", "tally"}.

    Raises:
        UserError: it is not prepared, or damaged.
    """
    path = _prepared(name, data_dir)
    builder = _open(path)
    known, features = builder.info.metadata, builder.info.features
    captions = known["captions"]
    view = "regions" if "regions" in features else "pixels"
    first = Split(builder, next(iter(captions)), view).record(0)
    spreads = {}
    for split, images in captions.items():
        words = [len(caption.split()) for image in images for caption in image]
        spreads[split] = {"captions an image": spread(list(map(len, images))), "words": spread(words)}
        spreads[split] |= known.get("sizes", {}).get(split, {})  # older sets have none
    return {
        "name": builder.name,
        "path": str(path),
        "source": known["source"],
        "splits": {
            split: {"images": len(images), "captions": sum(map(len, images))}
            for split, images in captions.items()
        },
        "spreads": spreads,
        "holds": [k for k in ("image", "regions", "boxes", "phrases") if k in features],
        "regions": first["regions"].shape if "regions" in first else None,
        "kind": known.get("kind", ""),
        "notes": known.get("notes", []),
        "tally": known.get("tally", {}),
    }


def _prepared(name: str, data_dir: str | Path) -> Path:
    _check_name(name)
    path = local_path(data_dir, "--data_dir") / name / VERSION
    if not path.exists():
        source = " --source DIR" if name in READERS else ""
        raise UserError(
            f"{name} is not prepared in {data_dir}: python -m jax_itm prepare {name}{source}"
            f" --data_dir {data_dir}"
        )
    return path


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise UserError(f"data set {name!r}: must be one of {', '.join(NAMES)}")


def _open(path: Path) -> Any:
    try:
        builder: Any = tfds.builder_from_directory(os.fspath(path))
        _check_metadata(builder.info.metadata, builder.info.splits)
        return builder
    except Exception as error:  # TFDS raises every kind
        raise UserError(f"{path}: damaged; remove it and prepare it again ({error})") from error


def _check_metadata(known: dict[str, Any], splits: Any) -> None:
    """Raises whatever where the metadata are not as `writer.Builder` writes them."""
    dim = known["region_dim"]
    if not (dim is None or (type(dim) is int and dim > 0)) or known["captions"].keys() != set(splits):
        raise ValueError("its metadata are of another set")
    for split, images in known["captions"].items():
        counted = len(images) == splits[split].num_examples and type(known["max_regions"][split]) is int
        if not counted or not all(texts and all(isinstance(text, str) for text in texts) for texts in images):
            raise ValueError(f"the captions of {split} are not as many or not text")
        spreads = known.get("sizes", {}).get(split, {}).values()  # older sets have none
        if not all([type(number) for number in found] == [int] * 3 for found in spreads):
            raise ValueError(f"the sizes of {split} are not numbers")
    told = [known["source"] or "", known.get("kind", ""), *known.get("notes", [])]
    counted = known.get("tally", {}).values()
    if not all(isinstance(text, str) for text in told) or not all(type(count) is int for count in counted):
        raise ValueError("its source, kind, notes or tally are not as they are written")


def splits_of(name: str, data_dir: str | Path) -> list[str]:
    """The splits of a prepared data set."""
    return list(_open(_prepared(name, data_dir)).info.metadata["captions"])


def open_split(name: str, data_dir: str | Path, split: str, view: str) -> Split:
    """Opens a split of a prepared data set.

    Args:
        name: the data set.
        data_dir: where it was prepared.
        split: one of its splits; "val" also opens SCAN's "dev".
        view: what to read of an image: "regions" or "pixels".

    Raises:
        UserError: not prepared, no such split, or the set does not hold that view.
    """
    builder = _open(_prepared(name, data_dir))
    if split == "val" and split not in builder.info.splits and "dev" in builder.info.splits:
        split = "dev"
    if split not in builder.info.splits:
        raise UserError(f"{name}: no split {split!r}; there are {', '.join(builder.info.splits)}")
    held = {"regions": "regions", "pixels": "image"}
    if view not in held or held[view] not in builder.info.features:
        views = [v for v, key in held.items() if key in builder.info.features]
        raise UserError(f"{name}: no view {view!r}; it has {', '.join(views)}")
    return Split(builder, split, view)
