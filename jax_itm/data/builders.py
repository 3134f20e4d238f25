"""Data sets on disk: `prepare` builds one with TFDS, `open_split` reads it.

A record is an image: `image_id`, `name`, `captions`, `caption_ids`, and, as the set has them,
`image` (encoded), `regions` (r, f) float16, `boxes` (r, 4) float32, `phrases`. Ids number the
split's images and captions from 0. The metadata hold all captions once more, so that they are read
without reading the regions: 30 MB instead of 17 GB of COCO.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from jax_itm.data import scenes
from jax_itm.data.folder import read_folder
from jax_itm.data.published import PUBLISHED, read_published
from jax_itm.data.readers import Raw, Record
from jax_itm.data.regions import read_precomp
from jax_itm.data.split import Split
from jax_itm.data.uniter import read_uniter
from jax_itm.types import UserError

READERS: dict[str, Callable[[Path], Raw]] = {
    "precomp": read_precomp,
    "folder": read_folder,
    "uniter": read_uniter,
    **{name: partial(read_published, name) for name in PUBLISHED},
}
NAMES = ("scenes", *READERS)
VERSION = "1.0.0"


def _read_scenes() -> Raw:
    splits = {split: partial(scenes.generate, split, count, 0) for split, count in scenes.SPLITS.items()}
    region_dim = next(scenes.generate("train", 1, 0))["regions"].shape[1]
    return Raw(splits, ("image", "regions", "boxes", "phrases"), region_dim)


class _Writer(tfds.core.ExampleWriter):
    """ArrayRecord without compression: features hardly shrink, and reading is four times faster."""

    def write(self, path, examples) -> None:
        writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for _, example in examples:
            writer.write(example)
        writer.close()


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One builder for all sets: what differs between them is in `Raw`."""

    VERSION = tfds.core.Version(VERSION)
    url_infos = None  # nothing is downloaded; TFDS's own looks for a file of checksums

    def __init__(self, name: str, raw: Raw, source: str | None, data_dir: Path):
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]: TFDS's AdhocBuilder does so
        self._raw = raw
        self._metadata = tfds.core.MetadataDict(
            source=source,
            region_dim=raw.region_dim,
            captions={split: [] for split in raw.splits},
            max_regions=dict.fromkeys(raw.splits, 0),
            kind=raw.kind,
            notes=list(raw.notes),
            sizes={},
        )
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        f, int64 = tfds.features, np.int64
        tensor = partial(f.Tensor, encoding="bytes")
        optional = {
            "image": f.Image(shape=(None, None, 3)),
            "regions": tensor(shape=(None, self._raw.region_dim), dtype=np.float16),
            "boxes": tensor(shape=(None, 4), dtype=np.float32),
            "phrases": f.Sequence({key: int64 for key in ("caption", "start", "end", "box")}),
        }
        features = {
            "image_id": int64,
            "name": f.Text(),
            "captions": f.Sequence(f.Text()),
            "caption_ids": f.Sequence(int64),
            **{key: optional[key] for key in self._raw.holds},
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=f.FeaturesDict(features),
            metadata=self._metadata,
            disable_shuffling=True,
        )

    def _example_writer(self) -> _Writer:
        return _Writer(file_format=tfds.core.FileFormat.ARRAY_RECORD)

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._raw.splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, Record]]:
        captions, count = self._metadata["captions"][split], 0
        sizes = {"width": [], "height": [], "regions": []}
        for image_id, record in enumerate(self._raw.splits[split]()):
            ids = list(range(count, count + len(record["captions"])))
            count += len(ids)
            captions.append(list(record["captions"]))
            record = record | {"image_id": image_id, "caption_ids": ids}
            if "regions" in record:
                sizes["regions"].append(len(record["regions"]))
            if "image" in record:
                record["image"] = _encoded(record["image"])
                with Image.open(io.BytesIO(record["image"])) as picture:
                    sizes["width"].append(picture.width)
                    sizes["height"].append(picture.height)
            yield image_id, record
        self._metadata["max_regions"][split] = max(sizes["regions"], default=0)
        self._metadata["sizes"][split] = {key: spread(of) for key, of in sizes.items() if of}


def spread(values: Sequence[int]) -> list[int]:
    """The least, the middle and the largest of some numbers."""
    ordered = sorted(values)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _encoded(image: bytes | np.ndarray) -> bytes:
    if isinstance(image, bytes):
        return image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def prepare(name: str, data_dir: str | Path, source: str | Path | None = None) -> dict[str, Any]:
    """Builds a data set into `data_dir`, all of it or nothing; one that is there is kept.

    Args:
        name: "scenes" (generated), "flickr8k", "flickr30k" or "coco" (as they are handed out), "folder"
            (pictures and captions), "precomp" (SCAN's layout) or "uniter" (UNITER's features).
        data_dir: where the prepared data sets lie.
        source: the directory of the raw data or, but for "precomp", its file of captions.

    Returns:
        {"name", "path", "reused": bool, "splits": {split: {"images", "captions"}}, "holds",
        "regions": shape of the first image's regions, or None, "kind": of splits, "notes"}.

    Raises:
        UserError: the raw data are wrong (all are read before a byte is written), or the set was
            prepared from another source.
    """
    _check_name(name)
    if source and name not in READERS:
        raise UserError(f"--source {source}: {name} is generated, it takes no source")
    where = str(Path(source).resolve()) if source else None
    path = Path(data_dir) / name / VERSION
    reused = path.exists()
    if reused:
        known = _open(path).info.metadata["source"]
        if where and where != known:
            raise UserError(
                f"--source {source}: {path} was prepared from {known}; take another --data_dir or remove it"
            )
    else:
        if name in READERS and not where:
            steps = f": {PUBLISHED[name].steps}; then --source DIR" if name in PUBLISHED else ""
            raise UserError(f"--source: {name} is made from raw files; name their directory{steps}")
        if where and not Path(where).exists():
            raise UserError(f"--source {source}: no such file or directory")
        _build(name, Path(data_dir), where)
    return _facts(path) | {"reused": reused}


def _build(name: str, data_dir: Path, source: str | None) -> None:
    raw = READERS[name](Path(source)) if source else _read_scenes()
    if source:
        for read in raw.splits.values():
            for _ in read():  # checks every record
                pass
    tfds.disable_progress_bar()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # TFDS speaks of downloads, and makes a directory for them: there are none.
        with tempfile.TemporaryDirectory() as nothing, contextlib.redirect_stdout(io.StringIO()):
            _Builder(name, raw, source, data_dir).download_and_prepare(download_dir=nothing)
    except OSError as error:
        raise UserError(f"--data_dir {data_dir}: cannot be written ({error})") from error


def _facts(path: Path) -> dict[str, Any]:
    builder = _open(path)
    captions = builder.info.metadata["captions"]
    view = "regions" if "regions" in builder.info.features else "pixels"
    first = Split(builder, next(iter(captions)), view).record(0)
    return {
        "name": builder.name,
        "path": str(path),
        "splits": {
            split: {"images": len(images), "captions": sum(map(len, images))}
            for split, images in captions.items()
        },
        "holds": [k for k in ("image", "regions", "boxes", "phrases") if k in builder.info.features],
        "regions": first["regions"].shape if "regions" in first else None,
        "kind": builder.info.metadata.get("kind", ""),
        "notes": builder.info.metadata.get("notes", []),
    }


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise UserError(f"data set {name!r}: must be one of {', '.join(NAMES)}")


def _open(path: Path) -> Any:
    try:
        builder: Any = tfds.builder_from_directory(os.fspath(path))
        _ = builder.info.metadata["captions"]  # read now, for what is wrong with it
        return builder
    except Exception as error:  # TFDS raises every kind
        raise UserError(f"{path}: damaged; remove it and prepare it again ({error})") from error


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
    _check_name(name)
    path = Path(data_dir) / name / VERSION
    if not path.exists():
        source = " --source DIR" if name in READERS else ""
        raise UserError(
            f"{name} is not prepared in {data_dir}: python -m jax_itm prepare {name}{source}"
            f" --data_dir {data_dir}"
        )
    builder = _open(path)
    if split == "val" and split not in builder.info.splits and "dev" in builder.info.splits:
        split = "dev"
    if split not in builder.info.splits:
        raise UserError(f"{name}: no split {split!r}; there are {', '.join(builder.info.splits)}")
    held = {"regions": "regions", "pixels": "image"}
    if view not in held or held[view] not in builder.info.features:
        views = [v for v, key in held.items() if key in builder.info.features]
        raise UserError(f"{name}: no view {view!r}; it has {', '.join(views)}")
    return Split(builder, split, view)
