"""A layout of one's own: DIR/{train,val,test}.npz with regions (n, r, f) and captions (n, k)."""

import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from jax_itm.data.sources.raw import Raw, Record, caption
from jax_itm.data.sources.registry import DATA_SETS, DataSet
from jax_itm.errors import UserError


def read_npz(source: Path) -> Raw:
    """Refuses what is wrong before a byte is written: UserError names the file."""
    files = {split: source / f"{split}.npz" for split in ("train", "val", "test")}
    files = {split: file for split, file in files.items() if file.exists()}
    if not files:
        raise UserError(f"{source}: none of train.npz, val.npz, test.npz")
    arrays = {split: load(file) for split, file in files.items()}
    captions = {
        split: [
            [caption(text, f"{files[split]}: row {i}") for text in row]
            for i, row in enumerate(texts.tolist())
        ]
        for split, (_, texts) in arrays.items()
    }
    sizes = {regions.shape[2] for regions, _ in arrays.values()}
    if len(sizes) > 1:
        raise UserError(f"{source}: features of the sizes {sorted(sizes)}, must be one")
    readers = {split: partial(records, split, arrays[split][0], captions[split]) for split in files}
    return Raw(readers, ("regions",), sizes.pop(), captions, files=tuple(files.values()))


def load(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The regions as float16 and the captions of a file; never a pickle."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            regions, captions = arrays["regions"].astype(np.float16), arrays["captions"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    if regions.ndim != 3 or captions.ndim != 2 or len(regions) != len(captions):
        raise UserError(f"{file}: {regions.shape} and {captions.shape}, must be (n, r, f) and (n, k)")
    if not np.isfinite(regions).all():
        raise UserError(f"{file}: a region is not finite in float16")
    return regions, captions


def records(
    split: str, regions: np.ndarray, captions: list[list[str]], start: int = 0, stop: int | None = None
) -> Iterator[Record]:
    """The images of a split from number `start` to before `stop`: Beam's workers share them so."""
    for i in range(len(regions))[start:stop]:
        yield {"name": f"{split}/{i}", "regions": regions[i], "captions": captions[i]}


DATA_SETS["npz"] = DataSet(read_npz)
