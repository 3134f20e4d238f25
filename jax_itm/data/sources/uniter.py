"""Region features as UNITER (Chen et al., ECCV 2020) published them: .npz files, or LMDB databases.

In either, an image's entry has `features` (n, f), `norm_bb` (n, 6) and `conf` (n,) in float16 or float32, a
row a box; norm_bb is x1 y1 x2 y2 w h in units of the image. Other arrays are ignored.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jax_itm.data.sources import lmdb_files
from jax_itm.data.sources.captions import by_image, check_distinct, read_captions, sentence_ids
from jax_itm.data.sources.lmdb_files import Opened
from jax_itm.data.sources.precomp import check_boxes, to_float16
from jax_itm.data.sources.raw import Raw, Record, read_json
from jax_itm.errors import UserError

# UNITER's rule for the number of boxes: those of a confidence above it, within these limits.
MIN_CONFIDENCE = 0.2
MIN_BOXES = 10
MAX_BOXES = 100
RULE = f"th{MIN_CONFIDENCE}_max{MAX_BOXES}_min{MIN_BOXES}"

DATABASES = (f"feat_{RULE}", "all", "feat_th*", "feat_numbb*")  # best first; each also with _compressed
DEPTHS = ("", "*/", "*/*/")  # the published folders are img_db/flickr30k/feat_..
ARRAYS = ("features", "norm_bb", "conf")
MAX_BYTES = 2**26  # of an array: 80 times 100 regions of 2,048 float32
SLACK = 1e-3  # by which boxes may exceed the image: float16 has steps of 5e-4 just below 1

Location = tuple[Path, str]  # a database and a key in it, or an .npz file and ""
Rows = slice | np.ndarray | None  # the boxes that an image keeps; None: decided by its confidences
KeptRows = Mapping[Path, Callable[[str], Rows]]  # for each database, the rows of a key


def read_uniter(source: Path) -> Raw:
    """A directory of features and a file of captions (see `read_captions`), or that file.

    Features are .npz files, one an image, or the databases that UNITER's convert_imgdir.py writes, up to
    three folders deep: `feat_th0.2_max100_min10`, `all`, `feat_numbb36` and the like, with or without
    `_compressed`. Their values are .npz files or, without `_compressed`, msgpack. The features of an image
    have the name of its file: flickr30k_000000036979.npz for 36979.jpg, coco_val2014_000000391895.npz for
    COCO_val2014_000000391895.jpg, or 36979.npz. They are taken from the first place that has them: databases
    in the order above, then .npz files.

    An image keeps its most confident boxes: those of a confidence above 0.2, but at least 10 and at most 100.
    Where UNITER counted them (`nbb_th0.2_max100_min10.json` next to feat_th0.2_max100_min10 or `all`, or
    IAIS's `nbb.json`), it keeps that many from the first on instead. Of a database without such a file that
    was cut when it was written (`feat_..`), it keeps all. An image with fewer boxes keeps what it has. Width
    and height of a box are left out, as they follow from its corners.

    Raises:
        UserError: an image has no features or those of another one, or features that are unreadable,
            ill-shaped or not finite in float16, or boxes that are not 0 to 1; a database is damaged; or the
            package `lmdb` or `msgpack` is missing.
    """
    table, splits, notes = read_captions(source, ignore="nbb*.json")
    base = table.parent
    databases = _find_databases(base)
    candidates = (file for depth in DEPTHS for file in sorted(base.glob(f"{depth}*.npz")))
    files = {file.name: file for file in candidates if file.is_file()}
    if not databases and not files:
        raise UserError(f"{base}: neither .npz files nor a database such as feat_{RULE}/data.mdb")
    kept = {path: _kept_rows(path) for path in databases}
    images = [image for captions in splits.values() for image in captions]
    keys = [key for image in images for key in _keys(image)]
    with lmdb_files.opened(databases) as opened:
        for path in databases:
            lmdb_files.check(path, keys)
        locations = {image: _locate(image, opened, files, base) for image in images}
        check_distinct({image: _label(location) for image, location in locations.items()})
        region_dim = _read_image(locations[images[0]], opened, kept)["regions"].shape[1]
    reads = {
        split: partial(_records, captions, locations, kept, region_dim) for split, captions in splits.items()
    }
    places = {path / "data.mdb" if key else path for path, key in locations.values()}
    return Raw(
        reads,
        ("regions", "boxes"),
        region_dim,
        by_image(splits),
        notes=notes,
        source_ids=sentence_ids(table, splits),
        files=(table, *sorted(places)),
    )


def _records(
    images: dict[str, list[str]],
    locations: Mapping[str, Location],
    kept: KeptRows,
    region_dim: int,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Record]:
    with lmdb_files.opened(list(kept)) as opened:
        for image, captions in islice(images.items(), start, stop):
            record = _read_image(locations[image], opened, kept)
            size = record["regions"].shape[1]
            if size != region_dim:
                where = _label(locations[image])
                raise UserError(f"{where}: features of size {size}, the first image's {region_dim}")
            yield {"name": image, "captions": captions, **record}


def _find_databases(base: Path) -> list[Path]:
    """The folders of the databases of features, the best first; one that is linked twice only once."""
    candidates = (file for depth in DEPTHS for file in base.glob(f"{depth}*/data.mdb"))
    files = sorted(file for file in candidates if file.is_file())
    folders = {file.resolve(): file.parent for file in files if _rank(file.parent) < len(DATABASES)}
    return sorted(folders.values(), key=_rank)


def _rank(path: Path) -> int:
    """A database's position in DATABASES; their number for any other, such as UNITER's databases of texts."""
    name = path.name.removesuffix("_compressed")
    return next((k for k, pattern in enumerate(DATABASES) if fnmatch(name, pattern)), len(DATABASES))


def _label(location: Location) -> str:
    path, key = location
    return f"{path}: {key}" if key else str(path)


def _keys(image: str) -> list[str]:
    """The names that an image's features may have."""
    stem = Path(image).stem
    keys = [f"{stem}.npz", f"{stem.lower()}.npz"]  # COCO's pictures are named in capitals
    # flickr30k_001018148011.npz has the features of 1018148011.jpg: the number in twelve digits.
    if re.fullmatch("[0-9]+", stem):
        keys.append(f"flickr30k_{stem.lstrip('0').zfill(12)}.npz")
    return list(dict.fromkeys(keys))


def _locate(image: str, opened: Opened, files: dict[str, Path], base: Path) -> Location:
    keys = _keys(image)
    for path, transaction in opened.items():
        for key in keys:
            if lmdb_files.read_value(transaction, path, key) is not None:
                return path, key
    for key in keys:
        if key in files:
            return files[key], ""
    raise UserError(f"{base}: no features of {image}: no {' nor '.join(keys)}")


def _kept_rows(path: Path) -> Callable[[str], Rows]:
    """The boxes that an image of a database keeps, by its key."""
    name = path.name.removesuffix("_compressed")
    own_table = name.replace("feat", "nbb") + ".json"
    tables = [f"nbb_{RULE}.json", "nbb.json"] if name == "all" else [own_table]
    for file in (path.parent / table for table in tables):
        if file.exists():
            return partial(_first_rows, file, _read_counts(file))
    return partial(_same_rows, None if name == "all" else slice(None))


def _same_rows(rows: Rows, key: str) -> Rows:
    return rows


def _read_counts(file: Path) -> dict[str, Any]:
    table = read_json(file)
    if not isinstance(table, dict):
        raise UserError(f"{file}: must be a table of names and numbers of boxes")
    return table


def _first_rows(file: Path, counts: dict[str, Any], key: str) -> slice:
    count = counts.get(key)
    if not isinstance(count, int) or count < 1:
        raise UserError(f"{file}: number of boxes of {key} is {count}, must be 1 or more")
    return slice(count)


def _read_image(location: Location, opened: Opened, kept: KeptRows) -> Record:
    """An image's regions float16 (r, f) and boxes float32 (r, 4)."""
    path, key = location
    where = _label(location)
    arrays = _unpack(lmdb_files.read_value(opened[path], path, key), where) if key else _read_npz(path, where)
    features = _array(arrays, "features", 2, where)
    boxes = _array(arrays, "norm_bb", 2, where)
    if not features.size or boxes.shape != (len(features), 6):
        raise UserError(f"{where}: norm_bb {boxes.shape} of features {features.shape}, must be (boxes, 6)")
    rows = kept[path](key) if key else None
    if rows is None:
        rows = _confident_rows(_array(arrays, "conf", 1, where), features, where)
    corners = np.array(boxes[rows, :4], np.float32)
    corners = np.where(np.abs(corners - 0.5) <= 0.5 + SLACK, np.clip(corners, 0, 1), corners)
    check_boxes(corners, where)
    return {"regions": to_float16(features[rows], where), "boxes": corners}


def _confident_rows(conf: np.ndarray, features: np.ndarray, where: str) -> np.ndarray:
    """The rows of the boxes to keep, the most confident first, which is the order of the published files."""
    if len(conf) != len(features):
        raise UserError(f"{where}: conf {conf.shape} of features {features.shape}")
    count = int(np.count_nonzero(conf.astype(np.float32) > MIN_CONFIDENCE))
    return np.argsort(-conf, kind="stable")[: max(MIN_BOXES, min(MAX_BOXES, count))]


def _array(arrays: Mapping[str, np.ndarray], name: str, ndim: int, where: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"{where}: no array {name!r}")
    array = arrays[name]
    if array.ndim != ndim or array.dtype.kind != "f":
        raise UserError(f"{where}: {name} is {array.dtype} {array.shape}, must be floating of {ndim} axes")
    return array


def _read_npz(file: Path | io.BytesIO, where: str) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            names = [name for name in ARRAYS if name in arrays]
            for name in names:  # before it is unpacked: a few bytes can become gigabytes of zeros
                if (size := arrays.zip.getinfo(f"{name}.npy").file_size) > MAX_BYTES:
                    raise ValueError(f"{name} has {size:,} bytes, more than {MAX_BYTES:,}")
            return {name: arrays[name] for name in names}
    except Exception as error:  # zipfile, zlib and numpy raise exceptions of every kind
        raise UserError(f"{where}: not readable as .npz ({error})") from error


def _unpack(value: Any, where: str) -> dict[str, np.ndarray]:
    """The arrays of a database's value: an .npz file, or msgpack with the arrays of msgpack_numpy."""
    if value[:2] == b"PK":  # the start of a zip file, and of no msgpack map
        return _read_npz(io.BytesIO(value), where)
    msgpack = lmdb_files.optional_package("msgpack", where)
    try:
        packed = msgpack.unpackb(value)
        entries = {name: packed[name] for name in ARRAYS if name in packed}
        # An array of objects would be a pickle; frombuffer refuses to make one.
        return {
            name: np.frombuffer(entry[b"data"], entry[b"type"]).reshape(entry[b"shape"])
            for name, entry in entries.items()
        }
    except Exception as error:  # msgpack raises exceptions of every kind
        raise UserError(f"{where}: not msgpack with arrays of msgpack_numpy ({error})") from error
