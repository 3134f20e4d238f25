"""UNITER's features in the layouts in which they were published."""

import io
import json
import zipfile

import lmdb
import msgpack
import numpy as np

FLICKR = {"36979.jpg": "flickr30k_000000036979.npz", "1018148011.jpg": "flickr30k_001018148011.npz"}

COCO = {
    "COCO_train2014_000000000009.jpg": "coco_train2014_000000000009.npz",
    "COCO_val2014_000000391895.jpg": "coco_val2014_000000391895.npz",
}

DEFAULT = "feat_th0.2_max100_min10"


def entry(seed, count=14, confident=12, dtype=np.float16):
    """The arrays of one image, the first `confident` boxes above 0.2."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.5, (count, 2))
    size = rng.uniform(0.1, 0.5, (count, 2))
    conf = np.r_[np.linspace(0.9, 0.3, confident), np.linspace(0.19, 0.05, count - confident)]
    arrays = {
        "norm_bb": np.concatenate([low, low + size, size], axis=1),
        "features": rng.normal(size=(count, 8)),
        "conf": conf,
        "soft_labels": rng.uniform(size=(count, 5)),
    }
    return {name: array.astype(dtype) for name, array in arrays.items()}


def entries(keys, **options):
    return {key: entry(seed, **options) for seed, key in enumerate(keys)}


def packed(arrays):
    """What msgpack.dumps gives once msgpack_numpy has patched it."""

    def encode(array):
        return {
            b"nd": True,
            b"type": array.dtype.str,
            b"kind": b"",
            b"shape": array.shape,
            b"data": array.tobytes(),
        }

    return msgpack.packb(arrays, default=encode, use_bin_type=True)


def zipped(arrays):
    """What np.savez_compressed(.., allow_pickle=True) wrote: the option became an array."""
    file, extra = io.BytesIO(), io.BytesIO()
    np.savez_compressed(file, **arrays)
    np.save(extra, np.array({"a": "pickle"}, object))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("allow_pickle.npy", extra.getvalue())
    return file.getvalue()


def write_lmdb(folder, features):
    """A database of {key: arrays or bytes}, as convert_imgdir.py writes it."""
    folder.mkdir(parents=True)
    encode = zipped if folder.name.endswith("_compressed") else packed
    with lmdb.open(str(folder), map_size=2**24) as database, database.begin(write=True) as transaction:
        for key, arrays in features.items():
            transaction.put(key.encode(), arrays if isinstance(arrays, bytes) else encode(arrays))
        transaction.put(b"__keys__", json.dumps(list(features)).encode())


def write_npz(folder, features):
    folder.mkdir(parents=True, exist_ok=True)
    for key, arrays in features.items():
        (folder / key).write_bytes(arrays if isinstance(arrays, bytes) else zipped(arrays))


def write_captions(folder, images, name="dataset_flickr30k.json", splits=("restval", "test")):
    folder.mkdir(exist_ok=True)
    rows = [
        {"filename": image, "split": split, "sentences": [{"raw": f"{image} {c} "} for c in range(5)]}
        for image, split in zip(images, splits, strict=True)
    ]
    (folder / name).write_text(json.dumps({"images": rows}))
    return folder
