"""What a pretrained image encoder's preprocessor says about resizing, cropping and normalisation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.sources.raw import read_table
from jax_itm.errors import UserError
from jax_itm.pretrained.open_clip import CONFIG, is_open_clip, preprocessor

LARGEST = 2**13  # pixels of an edge that a preprocessor may ask for


FILES = ("preprocessor_config.json", "processor_config.json")  # of a tower's directory: older, newer


# What a processor does where its file is silent, by a part of its type's name; "" is ViT's.
CLIP_LOOK = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


DEFAULTS = {
    "CLIP": ({"shortest_edge": 224}, 224, Image.Resampling.BICUBIC, *CLIP_LOOK),
    "Bit": ({"shortest_edge": 224}, 224, Image.Resampling.BICUBIC, *CLIP_LOOK),
    "": ({"height": 224, "width": 224}, None, Image.Resampling.BILINEAR, (0.5,) * 3, (0.5,) * 3),
}


def processor(folder: Path, side: int = 0) -> dict[str, Any]:
    """What a tower's directory says of pictures: the fields `frame`, `scale`, `mean`, `std` of an `arch`.

    Pixels p of 0 to 255 become `(p scale - mean) / std`, on the device.

    Args:
        folder: the directory.
        side: another height and width than the file says, in pixels; 0 takes the file's.

    Raises:
        UserError: the file is missing, or says what is not understood here.
    """
    file, said = _said(folder)
    if not isinstance(said, Mapping):
        raise UserError(f"{file}: not understood here: an image_processor of {said!r}")
    kind = str(said.get("image_processor_type") or said.get("feature_extractor_type") or "")
    size, crop, resample, mean, std = next(value for name, value in DEFAULTS.items() if name in kind)
    try:
        resize = _size(said.get("size", size), "shortest_edge" in size) if said.get("do_resize", True) else ()
        crops = said.get("do_center_crop", crop is not None)
        cut = _size(said.get("crop_size", crop), False) if crops else ()
        resample = int(Image.Resampling(said.get("resample", resample)))
        frame = ImageTransform(resize, cut, resample, is_open_clip(folder))
        if len(frame.shape) != 2:
            raise ValueError("pictures of many sizes would come out")
        normalised = said.get("do_normalize", True)
        look = {
            "scale": float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0,
            "mean": _three(said.get("image_mean", mean)) if normalised else (0.0,) * 3,
            "std": _three(said.get("image_std", std)) if normalised else (1.0,) * 3,
        }
        if not np.isfinite([look["scale"], *look["mean"], *look["std"]]).all() or min(look["std"]) <= 0:
            raise ValueError(f"a scale, mean and std of {look}")
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{file}: not understood here: {error}") from error
    told = (_at(frame, side) if side else frame)._asdict()
    del told["max_pixels"]  # the run's, not the encoder's
    return {"frame": told, **look}


def _said(folder: Path) -> tuple[Path, Any]:
    """The file of a tower's directory that speaks of pictures, and what it says."""
    if is_open_clip(folder):
        return folder / CONFIG, preprocessor(folder)
    file = next((folder / name for name in FILES if (folder / name).exists()), None)
    if file is None:
        raise UserError(f"{folder}: neither {FILES[0]} nor {FILES[1]} there")
    said = read_table(file)
    return file, said.get("image_processor", said)


def _size(said: Any, shortest: bool) -> tuple[int, ...]:
    edge = lambda found: type(found) is int and 1 <= found <= LARGEST
    if edge(said):
        return (said,) if shortest else (said, said)
    if isinstance(said, Mapping):
        for names in (("shortest_edge",), ("height", "width")):
            if said.keys() == set(names) and all(edge(said[name]) for name in names):
                return tuple(said[name] for name in names)
    raise ValueError(f"a size of {said!r}")


def _three(said: Any) -> tuple[float, ...]:
    values = tuple(float(x) for x in said)
    if len(values) != 3:
        raise ValueError(f"{said!r}, not three numbers")
    return values


def _at(frame: ImageTransform, side: int) -> ImageTransform:
    """The frame for pixels of another size; what is cut off stays the same share."""
    resize = tuple(round(edge * side / min(frame.shape)) for edge in frame.resize)
    return frame._replace(resize=resize, crop=(side, side) if frame.crop else ())
