"""Data sets on disk: `prepare` builds one with TFDS, `open_split` reads it.

A record is an image: `image_id`, `name`, `captions`, `caption_ids`, and, as the set has them,
`image` (encoded), `regions` (r, f) float16, `boxes` (r, 4) float32, `phrases`. Ids number the
split's images and captions from 0. The metadata hold all captions once more, so that they are read
without reading the regions: 30 MB instead of 17 GB of COCO.
"""

import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow_datasets as tfds

from jax_itm.data import scenes
from jax_itm.data.bottom_up import read_bottom_up
from jax_itm.data.coco_captions import read_coco_captions
from jax_itm.data.collate import MAX_PIXELS
from jax_itm.data.entities import with_phrases
from jax_itm.data.folder import read_folder
from jax_itm.data.published import PUBLISHED, read_published
from jax_itm.data.readers import Raw
from jax_itm.data.regions import read_precomp
from jax_itm.data.split import Split
from jax_itm.data.uniter import read_uniter
from jax_itm.data.writer import spread, write
from jax_itm.places import on_disk
from jax_itm.types import UserError

READERS: dict[str, Callable[..., Raw]] = {
    "precomp": read_precomp,
    "folder": read_folder,
    "uniter": read_uniter,
    "bottom_up_tsv": read_bottom_up,
    **{name: partial(read_published, name) for name in PUBLISHED},
}
NAMES = ("scenes", *READERS)
OF_PICTURES = ("folder", *PUBLISHED)  # their readers take `max_pixels`
VERSION = "1.0.0"


def _read_scenes() -> Raw:
    splits = {split: partial(scenes.generate, split, count, 0) for split, count in scenes.SPLITS.items()}
    region_dim = next(scenes.generate("train", 1, 0))["regions"].shape[1]
    return Raw(splits, ("image", "regions", "boxes", "phrases"), region_dim)


WITHOUT_SOURCE: dict[str, Callable[..., Raw]] = {"scenes": _read_scenes, "coco": read_coco_captions}


def prepare(
    name: str,
    data_dir: str | Path,
    source: str | Path | None = None,
    entities: str | Path | None = None,
    beam: dict[str, str] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, Any]:
    """Builds a data set into `data_dir`, all of it or nothing; one that is there is kept.

    Args:
        name: "scenes" (generated), "flickr8k", "flickr30k" or "coco" (as they are handed out), "folder"
            (pictures and captions), "precomp" (SCAN's layout), "uniter" or "bottom_up_tsv" (their features).
        data_dir: where the prepared data sets lie.
        source: the directory of the raw data or, but for "precomp", its file of captions.
        entities: a directory of Flickr30k Entities, whose phrases the records get (`with_phrases`).
        beam: options of an Apache Beam pipeline that is to read and write the images; None: this process.
        max_pixels: the most that a picture file may have; a larger one is refused before it is decoded.

    Returns:
        What `describe` does, and "reused": whether it was there.

    Raises:
        UserError: the raw data are wrong (all are read before a byte is written, but with `beam`), the
            set was prepared from another source, or another process is preparing it.
    """
    _check_name(name)
    given = {"source": source, "entities": entities}
    places = {option: str(Path(where).resolve()) for option, where in given.items() if where}
    for option in places if name not in READERS else ():
        raise UserError(f"--{option} {given[option]}: {name} is generated, it takes no {option}")
    path = on_disk(data_dir, "--data_dir") / name / VERSION
    reused = path.exists()
    if reused:
        known = _open(path).info.metadata
        for option, where in places.items():
            if where != known.get(option):
                raise UserError(
                    f"--{option} {given[option]}: {path} was prepared from {known.get(option) or 'none'};"
                    " take another --data_dir or remove it"
                )
    else:
        if name not in WITHOUT_SOURCE and not source:
            steps = f": {PUBLISHED[name].steps}; then --source DIR" if name in PUBLISHED else ""
            raise UserError(f"--source: {name} is made from raw files; name their directory{steps}")
        for option, where in places.items():
            if not Path(where).exists():
                raise UserError(f"--{option} {given[option]}: no such file or directory")
        options = {"max_pixels": max_pixels} if name in OF_PICTURES else {}
        _build(name, Path(data_dir), places, beam, options)
    return describe(name, data_dir) | {"reused": reused}


def _build(
    name: str, data_dir: Path, places: dict[str, str], beam: dict[str, str] | None, options: dict[str, int]
) -> None:
    if beam is not None:
        _check_beam(name, places)
    try:
        source = (Path(places["source"]),) if "source" in places else ()
        raw = (READERS if source else WITHOUT_SOURCE)[name](*source, **options)
        if "entities" in places:
            raw = with_phrases(raw, Path(places["entities"]))
        if name != "scenes" and beam is None:
            for read in raw.splits.values():
                for _ in read():  # checks every record
                    pass
    except OSError as error:
        raise UserError(f"{error.filename or name}: cannot be read ({error.strerror})") from error
    try:
        write(name, raw, data_dir, VERSION, {"source": None, **places}, beam)
    except OSError as error:
        raise UserError(f"--data_dir {data_dir}: cannot be written ({error})") from error


def _check_beam(name: str, places: dict[str, str]) -> None:
    if "source" not in places or "entities" in places:
        raise UserError(f"--beam: reads raw files alone; prepare {name} without it, or with --source alone")
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError("--beam: needs the package apache-beam: pip install -e .[beam]")


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
    path = on_disk(data_dir, "--data_dir") / name / VERSION
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
