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

from jax_itm.data.bucket import cached_folder
from jax_itm.data.shards import INDEX, Folder, LocalFolder, Shards, read_index
from jax_itm.data.sources.registry import data_set
from jax_itm.data.split import Split, SplitFacts
from jax_itm.data.tfds_builder import min_median_max
from jax_itm.errors import UserError
from jax_itm.storage import is_bucket, local_path

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
    prepared = _open_named(name, data_dir)
    if split == "val" and split not in prepared.splits and "dev" in prepared.splits:
        split = "dev"
    if split not in prepared.splits:
        raise UserError(f"{name}: no split {split!r}; there are {', '.join(prepared.splits)}")
    available = [each for each, feature in FEATURES.items() if feature in prepared.features]
    if modality not in available:
        raise UserError(f"{name}: no {modality!r} to read; it has {', '.join(available)}")
    return prepared.open(split, modality)


def splits_of(name: str, data_dir: str | Path) -> list[str]:
    """The names of the splits of a prepared data set."""
    return _open_named(name, data_dir).splits


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
    prepared = _open_named(name, data_dir)
    return {
        "name": name,
        "path": prepared.location,
        "features": [key for key in ("image", "regions", "boxes", "phrases") if key in prepared.features],
        **prepared.summary(),
    }


def _caption_spreads(images: list[list[str]]) -> dict[str, list[int]]:
    words = [len(caption.split()) for captions in images for caption in captions]
    per_image = [len(captions) for captions in images]
    return {"captions an image": min_median_max(per_image), "words": min_median_max(words)}


def _open_named(name: str, data_dir: str | Path) -> "PreparedByTfds | PreparedInShards":
    """A prepared data set by its name, on a disk or in a bucket."""
    if is_bucket(data_dir):
        data_set(name)
        folder = cached_folder(os.fspath(data_dir), name, VERSION)
        return PreparedInShards(folder, folder.path, folder.url)
    return open_prepared(_dataset_path(name, data_dir))


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


ORIGIN = ("source", "entities", "contents", "small_files")


class PreparedByTfds:
    """A set that `tfds_builder.Builder` wrote; all captions are in its metadata.

    Args:
        path: its folder.

    Attributes:
        location: the folder, for the user.
        splits: their names.
        features: of its records.
        origin: "source", "entities", "contents" and "small_files": where it comes from.

    Raises:
        UserError: it is damaged.
    """

    def __init__(self, path: Path):
        self.location = str(path)
        self._builder = open_builder(path)
        self._metadata = self._builder.info.metadata
        self.splits: list[str] = list(self._metadata["captions"])
        self.features = tuple(self._builder.info.features)
        self.origin = {key: self._metadata.get(key) for key in ORIGIN}

    def open(self, split: str, modality: str) -> Split:
        """One of its splits."""
        # The data source of TFDS, but without its decoding, which turns every feature into an array by way of
        # Python objects. The regions of a record are one string of bytes, which numpy reads as it is.
        numbers = self._metadata.get("source_ids", {}).get(split, [])
        facts = SplitFacts(
            self._builder.name,
            split,
            self.features,
            self._metadata["region_dim"],
            self._metadata["max_regions"][split],
            Path(self._builder.data_path),
            int(self._builder.info.splits[split].num_bytes),
            [number for image in numbers for number in image],
            self.origin["small_files"] or "",
        )
        examples = self._builder.as_data_source(split).data_source
        return Split(facts, modality, examples, self._metadata["captions"][split])

    def summary(self) -> dict[str, Any]:
        """What `describe` says of it; reads the first image."""
        captions = self._metadata["captions"]
        modality = "regions" if "regions" in self.features else "pixels"
        first = self.open(self.splits[0], modality).record(0)
        return {
            "regions": first["regions"].shape if "regions" in first else None,
            "source": self._metadata["source"],
            "splits": {
                split: {"images": len(images), "captions": sum(map(len, images))}
                for split, images in captions.items()
            },
            "spreads": {
                split: _caption_spreads(images) | self._metadata["sizes"][split]
                for split, images in captions.items()
            },
            "kind": self._metadata["kind"],
            "notes": self._metadata["notes"],
            "tally": self._metadata["tally"],
        }


class PreparedInShards:
    """A set that `shard_preparation.write_shards` wrote, with the attributes of `PreparedByTfds`.

    Args:
        folder: where its files are.
        path: its folder on this machine.
        location: its folder, for the user.

    Raises:
        UserError: it is damaged.
    """

    def __init__(self, folder: Folder, path: Path, location: str):
        self.location = location
        self._folder = folder
        self._path = path
        self._index = read_index(folder)
        self.splits: list[str] = list(self._index["splits"])
        self.features = ("captions", "image", "name")
        self.origin: dict[str, Any] = self._index["origin"]

    def open(self, split: str, modality: str) -> Split:
        """One of its splits."""
        shards = self._index["splits"][split]["shards"]
        size = sum(shard.bytes for shard in shards)
        name = self._path.parent.name
        facts = SplitFacts(name, split, self.features, None, 0, self._path, size)
        return Split(facts, modality, Shards(self._folder, shards), None)

    def summary(self) -> dict[str, Any]:
        """What `describe` says of it."""
        splits = self._index["splits"]
        return {
            "regions": None,
            "source": self.origin["source"],
            "splits": {
                name: {
                    "images": sum(shard.images for shard in split["shards"]),
                    "captions": sum(shard.captions for shard in split["shards"]),
                }
                for name, split in splits.items()
            },
            "spreads": {name: split["spreads"] for name, split in splits.items()},
            "kind": self._index["kind"],
            "notes": self._index["notes"],
            "tally": self._index["tally"],
        }


def open_prepared(path: Path) -> PreparedByTfds | PreparedInShards:
    """A prepared data set by its folder; UserError where it is damaged."""
    if (path / INDEX).exists():
        return PreparedInShards(LocalFolder(path), path, str(path))
    return PreparedByTfds(path)


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
