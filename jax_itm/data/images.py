"""From records to arrays of one shape: used by training, evaluation and inference alike."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jax_itm.config.fields import DATA
from jax_itm.data.image_transforms import Frame, fit
from jax_itm.errors import UserError

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow's EPS would start Ghostscript
MAX_PIXELS: int = DATA["max_pixels"]


def read_picture(source: str | Path | bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An RGB picture, uint8 (h, v, 3), from a path or from the bytes of a file.

    Raises:
        UserError: the file is missing, truncated, no picture, or says that it has more than `max_pixels`
            (`config.data.max_pixels`); nothing of it is decoded then.
    """
    where = name if isinstance(source, bytes) else str(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                raise UserError(
                    f"{where}: {picture.width:,} x {picture.height:,} pixels, more than the"
                    f" {max_pixels:,} of config.data.max_pixels"
                )
            return np.asarray(picture.convert("RGB"))
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{where}: no such image") from error
    except Exception as error:  # Pillow raises every kind
        raise UserError(f"{where}: not a readable image ({error})") from error


def collate_images(
    records: Sequence[Mapping[str, Any]], max_regions: int, frame: Frame
) -> dict[str, np.ndarray]:
    """`batch["image"]` (see `jax_itm.types`) of the records' regions and boxes, pixels, or a tower's tokens.

    Regions are padded to `max_regions` and stay float16: the device makes them float32. Pixels are brought to
    one size as `frame` says.

    Raises:
        UserError: an image has more regions than `max_regions`.
    """
    if "features" in records[0]:
        return {"features": np.stack([record["features"] for record in records])}
    if "pixels" in records[0]:
        return {"pixels": np.stack([fit(record["pixels"], frame) for record in records])}
    rows, dim = len(records), records[0]["regions"].shape[1]
    regions = np.zeros((rows, max_regions, dim), np.float16)
    boxes = np.zeros((rows, max_regions, 4), np.float32)
    mask = np.zeros((rows, max_regions), bool)
    for row, record in enumerate(records):
        count = len(record["regions"])
        if count > max_regions:
            raise UserError(f"config.data.max_regions={max_regions}: an image has {count} regions")
        regions[row, :count], boxes[row, :count] = record["regions"], record["boxes"]
        mask[row, :count] = True
    return {"regions": regions, "boxes": boxes, "mask": mask}
