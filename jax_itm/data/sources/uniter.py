"""Region features as UNITER (Chen et al., ECCV 2020) published them: .npz files, or LMDB databases.

An image's entry, in either, has `features` (n, f), `norm_bb` (n, 6) and `conf` (n,), in float16 or
float32, a row a box: norm_bb is x1 y1 x2 y2 w h in units of the image. Other arrays stay unread.
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
from jax_itm.data.sources.captions import by_image, read_captions
from jax_itm.data.sources.lmdb_files import Opened
from jax_itm.data.sources.precomp import check_boxes, half
from jax_itm.data.sources.raw import Raw, Record, read_json
from jax_itm.errors import UserError

CONFIDENCE, LEAST, MOST = 0.2, 10, 100  # UNITER's number of boxes
RULE = f"th{CONFIDENCE}_max{MOST}_min{LEAST}"
DATABASES = (f"feat_{RULE}", "all", "feat_th*", "feat_numbb*")  # best first; each also _compressed
DEPTHS = ("", "*/", "*/*/")  # the published folders are img_db/flickr30k/feat_..
ARRAYS = ("features", "norm_bb", "conf")
MOST_BYTES = 2**26  # of an array: 80 times those of 100 regions of 2,048 float32
SLACK = 1e-3  # of boxes beyond the image: float16 has steps of 5e-4 just below 1

Place = tuple[Path, str]  # a database and a key in it, or an .npz file and ""
Rows = slice | np.ndarray | None  # the boxes that an image keeps; None: its confidences tell


def read_uniter(source: Path) -> Raw:
    """A directory of features and a file of captions (see `read_captions`), or that file.

    Features are .npz files, one an image, or the databases that UNITER's convert_imgdir.py writes,
    up to three folders deep: `feat_th0.2_max100_min10`, `all`, `feat_numbb36` and the like, with or
    without `_compressed`. Values are .npz files or, without `_compressed`, msgpack. An image has
    its features under the name of its file, as flickr30k_000000036979.npz for 36979.jpg and
    coco_val2014_000000391895.npz for COCO_val2014_000000391895.jpg, or as 36979.npz. They are taken
    from the first place that has them: databases in the order above, then .npz files.

    An image keeps its most confident boxes: those of confidence above 0.2, but at least 10 and at
    most 100. Where UNITER counted them (`nbb_th0.2_max100_min10.json` beside feat_th0.2_max100_min10
    or `all`, or IAIS's `nbb.json`), it keeps the first so many instead; and all boxes of a database
    that was cut when it was written (`feat_..`) and has no such file. Fewer are kept where an image
    has fewer. Width and height of a box are left out, for `location` gives them.

    Raises:
        UserError: an image without features, unreadable or ill-shaped features, boxes that are not
            0 to 1, a feature that is not finite in float16, a damaged database, or no package `lmdb` or
            `msgpack`.
    """
    table, splits = read_captions(source, ignore="nbb*.json")
    base = table.parent
    paths = _databases(base)
    arrays = (file for depth in DEPTHS for file in sorted(base.glob(f"{depth}*.npz")) if file.is_file())
    files = {file.name: file for file in arrays}
    if not paths and not files:
        raise UserError(f"{base}: neither .npz files nor a database such as feat_{RULE}/data.mdb")
    kept = {path: _kept(path) for path in paths}
    keys = [key for images in splits.values() for image in images for key in _keys(image)]
    with lmdb_files.opened(paths) as opened:
        for path in paths:
            lmdb_files.check(path, keys)
        found = {image: _place(image, opened, files, base) for images in splits.values() for image in images}
        dim = _record("", *next(iter(found.values())), opened, kept)["regions"].shape[1]
    reads = {split: partial(_records, images, found, kept, dim) for split, images in splits.items()}
    return Raw(reads, ("regions", "boxes"), dim, by_image(splits))


def _records(
    images: dict[str, list[str]],
    found: Mapping[str, Place],
    kept: Mapping[Path, Callable[[str], Rows]],
    dim: int,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Record]:
    with lmdb_files.opened(list(kept)) as opened:
        for image, captions in islice(images.items(), start, stop):
            path, key = found[image]
            record = _record(image, path, key, opened, kept)
            if record["regions"].shape[1] != dim:
                size = record["regions"].shape[1]
                raise UserError(f"{_where(path, key)}: features of size {size}, the first image's {dim}")
            yield record | {"captions": captions}


def _databases(base: Path) -> list[Path]:
    """The folders of the databases of features, the best first; one that is linked to twice, once."""
    found = sorted(file for depth in DEPTHS for file in base.glob(f"{depth}*/data.mdb") if file.is_file())
    paths = {file.resolve(): file.parent for file in found if _kind(file.parent) < len(DATABASES)}
    return sorted(paths.values(), key=_kind)


def _kind(path: Path) -> int:
    """The database's place among DATABASES; their number for any other, as UNITER's of texts."""
    name = path.name.removesuffix("_compressed")
    return next((k for k, kind in enumerate(DATABASES) if fnmatch(name, kind)), len(DATABASES))


def _where(path: Path, key: str) -> str:
    return f"{path}: {key}" if key else str(path)


def _keys(image: str) -> list[str]:
    """The names that an image's features may have."""
    stem = Path(image).stem
    keys = [f"{stem}.npz", f"{stem.lower()}.npz"]  # COCO's files are named in capitals
    # flickr30k_001018148011.npz has the features of 1018148011.jpg: the number in twelve digits.
    if re.fullmatch("[0-9]+", stem):
        keys.append(f"flickr30k_{stem.lstrip('0').zfill(12)}.npz")
    return list(dict.fromkeys(keys))


def _place(image: str, opened: Opened, files: dict[str, Path], base: Path) -> Place:
    keys = _keys(image)
    for path, transaction in opened.items():
        for key in keys:
            if lmdb_files.value(transaction, path, key) is not None:
                return path, key
    for key in keys:
        if key in files:
            return files[key], ""
    raise UserError(f"{base}: no features of {image}: no {' nor '.join(keys)}")


def _kept(path: Path) -> Callable[[str], Rows]:
    """The boxes that an image of a database keeps, by its key."""
    name = path.name.removesuffix("_compressed")
    wanted = [f"nbb_{RULE}.json", "nbb.json"] if name == "all" else [name.replace("feat", "nbb") + ".json"]
    for file in (path.parent / name for name in wanted):
        if file.exists():
            return partial(_counted, file, _json(file))
    return partial(_the_same, None if name == "all" else slice(None))


def _the_same(rows: Rows, key: str) -> Rows:
    return rows


def _json(file: Path) -> dict[str, Any]:
    table = read_json(file)
    if not isinstance(table, dict):
        raise UserError(f"{file}: must be a table of names and numbers of boxes")
    return table


def _counted(file: Path, table: dict[str, Any], key: str) -> slice:
    count = table.get(key)
    if not isinstance(count, int) or count < 1:
        raise UserError(f"{file}: number of boxes of {key} is {count}, must be 1 or more")
    return slice(count)


def _record(
    image: str, path: Path, key: str, opened: Opened, kept: Mapping[Path, Callable[[str], Rows]]
) -> Record:
    """The image's regions float16 (r, f) and boxes float32 (r, 4)."""
    where = _where(path, key)
    arrays = _unpack(lmdb_files.value(opened[path], path, key), where) if key else _npz(path, where)
    features, boxes = (_array(arrays, name, 2, where) for name in ("features", "norm_bb"))
    if not features.size or boxes.shape != (len(features), 6):
        raise UserError(f"{where}: norm_bb {boxes.shape} of features {features.shape}, must be (boxes, 6)")
    rows = kept[path](key) if key else None
    if rows is None:
        rows = _confident(_array(arrays, "conf", 1, where), features, where)
    corners = np.array(boxes[rows, :4], np.float32)
    corners = np.where(np.abs(corners - 0.5) <= 0.5 + SLACK, np.clip(corners, 0, 1), corners)
    check_boxes(corners, where)
    return {"name": image, "regions": half(features[rows], where), "boxes": corners}


def _confident(conf: np.ndarray, features: np.ndarray, where: str) -> np.ndarray:
    """The rows of the boxes to keep, the most confident first: the order they are published in."""
    if len(conf) != len(features):
        raise UserError(f"{where}: conf {conf.shape} of features {features.shape}")
    count = int(np.count_nonzero(conf.astype(np.float32) > CONFIDENCE))
    return np.argsort(-conf, kind="stable")[: max(LEAST, min(MOST, count))]


def _array(arrays: Mapping[str, np.ndarray], name: str, ndim: int, where: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"{where}: no array {name!r}")
    array = arrays[name]
    if array.ndim != ndim or array.dtype.kind != "f":
        raise UserError(f"{where}: {name} is {array.dtype} {array.shape}, must be floating of {ndim} axes")
    return array


def _npz(file: Path | io.BytesIO, where: str) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            names = [name for name in ARRAYS if name in arrays]
            for name in names:  # before it is unpacked: a few bytes of zeros can become gigabytes
                if (size := arrays.zip.getinfo(f"{name}.npy").file_size) > MOST_BYTES:
                    raise ValueError(f"{name} has {size:,} bytes, more than {MOST_BYTES:,}")
            return {name: arrays[name] for name in names}
    except Exception as error:  # zipfile, zlib and numpy raise every kind
        raise UserError(f"{where}: not readable as .npz ({error})") from error


def _unpack(value: Any, where: str) -> dict[str, np.ndarray]:
    """The arrays of a database's value: an .npz file, or msgpack with msgpack_numpy's arrays."""
    if value[:2] == b"PK":  # a zip file begins so, and no map of msgpack
        return _npz(io.BytesIO(value), where)
    msgpack = lmdb_files.package("msgpack", where)
    try:
        packed = msgpack.unpackb(value)
        entries = {name: packed[name] for name in ARRAYS if name in packed}
        # An array of objects would be a pickle; frombuffer refuses to make one.
        return {
            name: np.frombuffer(entry[b"data"], entry[b"type"]).reshape(entry[b"shape"])
            for name, entry in entries.items()
        }
    except Exception as error:  # msgpack raises every kind
        raise UserError(f"{where}: not msgpack with arrays of msgpack_numpy ({error})") from error
