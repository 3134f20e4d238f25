"""What a pretrained image encoder's preprocessor says about resizing, cropping and normalisation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.sources.raw import read_table
from jax_itm.errors import UserError
from jax_itm.pretrained.big_vision import big_vision_file, big_vision_preprocessor, is_big_vision
from jax_itm.pretrained.open_clip import CONFIG, is_open_clip, preprocessor_fields

LARGEST = 2**13  # pixels of an edge that a preprocessor may ask for
FILES = ("preprocessor_config.json", "processor_config.json")  # of an encoder's directory: older, newer


class Defaults(NamedTuple):
    """What a preprocessor does where its file is silent."""

    size: Mapping[str, int]
    crop: int | None
    resample: Image.Resampling
    mean: tuple[float, ...]
    std: tuple[float, ...]


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CLIP_DEFAULTS = Defaults({"shortest_edge": 224}, 224, Image.Resampling.BICUBIC, CLIP_MEAN, CLIP_STD)
HALF = (0.5,) * 3
VIT_DEFAULTS = Defaults({"height": 224, "width": 224}, None, Image.Resampling.BILINEAR, HALF, HALF)
SIGLIP_DEFAULTS = VIT_DEFAULTS._replace(resample=Image.Resampling.BICUBIC)
DEFAULTS = {  # by a part of its type's name
    "CLIP": CLIP_DEFAULTS,
    "Bit": CLIP_DEFAULTS,
    "Siglip": SIGLIP_DEFAULTS,
    "": VIT_DEFAULTS,
}


def read_preprocessor(folder: Path, side: int = 0) -> dict[str, Any]:
    """An architecture's `image_transform`, `scale`, `mean` and `std`, from an encoder's directory.

    Pixels p of 0 to 255 become `(p scale - mean) / std`, on the device.

    Args:
        folder: the directory.
        side: another height and width than the file says, in pixels; 0 takes the file's.

    Raises:
        UserError: the file is missing, or says what is not understood here.
    """
    file, fields = _read_fields(folder)
    if not isinstance(fields, Mapping):
        raise UserError(f"{file}: not understood here: an image_processor of {fields!r}")
    kind = str(fields.get("image_processor_type") or fields.get("feature_extractor_type") or "")
    defaults = next(value for name, value in DEFAULTS.items() if name in kind)
    try:
        transform = _transform(fields, defaults)._replace(rounded=is_open_clip(folder))
        normalisation = _normalisation(fields, defaults)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{file}: not understood here: {error}") from error
    described = (_resized(transform, side) if side else transform)._asdict()
    del described["max_pixels"]  # the run's, not the encoder's
    return {"image_transform": described, **normalisation}


def default_preprocessor(kind: str, side: int) -> dict[str, Any]:
    """What `read_preprocessor` returns for a "vit", "clip" or "siglip" of its defaults, to `side` pixels."""
    defaults = {"vit": VIT_DEFAULTS, "clip": CLIP_DEFAULTS, "siglip": SIGLIP_DEFAULTS}[kind]
    described = _resized(_transform({}, defaults), side)._asdict()
    del described["max_pixels"]
    return {"image_transform": described, **_normalisation({}, defaults)}


def _read_fields(folder: Path) -> tuple[Path, Any]:
    """The file of an encoder's directory that describes its preprocessor, and what it says."""
    if is_open_clip(folder):
        return folder / CONFIG, preprocessor_fields(folder)
    file = next((folder / name for name in FILES if (folder / name).exists()), None)
    if file is None and is_big_vision(folder):
        return big_vision_file(folder), big_vision_preprocessor(folder)
    if file is None:
        raise UserError(f"{folder}: neither {FILES[0]} nor {FILES[1]} there")
    table = read_table(file)
    return file, table.get("image_processor", table)


def _transform(fields: Mapping[str, Any], defaults: Defaults) -> ImageTransform:
    shortest = "shortest_edge" in defaults.size
    resize = _size(fields.get("size", defaults.size), shortest) if fields.get("do_resize", True) else ()
    crops = fields.get("do_center_crop", defaults.crop is not None)
    crop = _size(fields.get("crop_size", defaults.crop), False) if crops else ()
    resample = int(Image.Resampling(fields.get("resample", defaults.resample)))
    transform = ImageTransform(resize, crop, resample)
    if len(transform.shape) != 2:
        raise ValueError("pictures would come out in many sizes")
    return transform


def _normalisation(fields: Mapping[str, Any], defaults: Defaults) -> dict[str, Any]:
    scale = float(fields.get("rescale_factor", 1 / 255)) if fields.get("do_rescale", True) else 1.0
    mean = (0.0,) * 3
    std = (1.0,) * 3
    if fields.get("do_normalize", True):
        mean = _three(fields.get("image_mean", defaults.mean))
        std = _three(fields.get("image_std", defaults.std))
    if not np.isfinite([scale, *mean, *std]).all() or min(std) <= 0:
        raise ValueError(f"a scale of {scale}, a mean of {mean} and a std of {std}")
    return {"scale": scale, "mean": mean, "std": std}


def _size(size: Any, shortest: bool) -> tuple[int, ...]:
    """A `size` field as (height, width) or, of the shorter edge, (length,)."""
    is_edge = lambda edge: type(edge) is int and 1 <= edge <= LARGEST
    if is_edge(size):
        return (size,) if shortest else (size, size)
    if isinstance(size, Mapping):
        for names in (("shortest_edge",), ("height", "width")):
            if size.keys() == set(names) and all(is_edge(size[name]) for name in names):
                return tuple(size[name] for name in names)
    raise ValueError(f"a size of {size!r}")


def _three(values: Any) -> tuple[float, ...]:
    numbers = tuple(float(x) for x in values)
    if len(numbers) != 3:
        raise ValueError(f"{values!r}, not three numbers")
    return numbers


def _resized(transform: ImageTransform, side: int) -> ImageTransform:
    """The transform to pixels of another size, which crops the same fraction."""
    resize = tuple(round(edge * side / min(transform.shape)) for edge in transform.resize)
    return transform._replace(resize=resize, crop=(side, side) if transform.crop else ())
