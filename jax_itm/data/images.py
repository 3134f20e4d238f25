"""Reading pictures, and stacking the images of a batch: shared by training, evaluation and inference."""

import io
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jax_itm.data.image_transforms import MAX_PIXELS, ImageTransform, transform_image
from jax_itm.data.rgb import to_rgb
from jax_itm.errors import UserError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
# The formats that Pillow may read: for EPS it would start Ghostscript, which runs programs.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def read_picture(source: str | Path | bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture as a viewer shows it (`rgb.py`), uint8 (h, v, 3).

    Args:
        source: a path, or the contents of a file.
        name: how errors call a picture that is given by its contents.
        max_pixels: the limit (`config.data.max_pixels`); a picture whose header states more is refused before
            anything of it is decoded.

    Raises:
        UserError: the file is missing, truncated, too large, no picture, or of unknown brightness.
    """
    label = name if isinstance(source, bytes) else str(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=IMAGE_FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                raise UserError(
                    f"{label}: {picture.width:,} x {picture.height:,} pixels, more than the"
                    f" {max_pixels:,} of config.data.max_pixels"
                )
            return np.asarray(to_rgb(picture))
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{label}: no such image") from error
    except Exception as error:  # Pillow raises exceptions of every kind
        raise UserError(f"{label}: not a readable image ({error})") from error


def picture_files(folder: Path) -> list[Path]:
    """The files below a folder that are called like pictures, sorted."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(file for file in files if file.is_file())


def collate_images(
    records: Iterable[Mapping[str, Any]], max_regions: int, transform: ImageTransform
) -> dict[str, np.ndarray]:
    """Stacks records into `batch["image"]` (see `jax_itm.types`).

    Args:
        records: one or more, each with "regions" and "boxes", with "pixels", or with the "features" that a
            frozen encoder computed beforehand. Of an iterator that reads pictures as it goes, no more than a
            few are in memory at their full size.
        max_regions: the number of regions to which each image is padded. Regions stay float16 here; they
            become float32 on the device.
        transform: how pixels are brought to one size.

    Raises:
        UserError: an image has more than `max_regions` regions.
    """
    records = iter(records)
    first = next(records)
    records = chain([first], records)
    if "features" in first:
        return {"features": np.stack([record["features"] for record in records])}
    if "pixels" in first:
        return {"pixels": np.stack([transform_image(record["pixels"], transform) for record in records])}
    records = list(records)
    rows = len(records)
    region_dim = first["regions"].shape[1]
    regions = np.zeros((rows, max_regions, region_dim), np.float16)
    boxes = np.zeros((rows, max_regions, 4), np.float32)
    mask = np.zeros((rows, max_regions), bool)
    for row, record in enumerate(records):
        count = len(record["regions"])
        if count > max_regions:
            raise UserError(f"config.data.max_regions={max_regions}: an image has {count} regions")
        regions[row, :count] = record["regions"]
        boxes[row, :count] = record["boxes"]
        mask[row, :count] = True
    return {"regions": regions, "boxes": boxes, "mask": mask}
