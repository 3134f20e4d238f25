"""Reads a picture file as a viewer shows it, in 8-bit RGB: upright, with transparency on white."""

import contextlib
import io

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
BACKGROUND = (255, 255, 255)


def to_rgb(picture: Image.Image) -> Image.Image:
    """An opened picture as RGB.

    Pillow alone ignores the orientation of EXIF, clips 16 bits to white and floats to black, shows whatever
    colour lies under full transparency, and converts CMYK without its profile.

    Raises:
        ValueError: the brightness of its numbers is not known: 32-bit integers, or floats outside 0 to 1.
    """
    file_format = picture.format  # `exif_transpose` drops it
    if orientation(picture) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        return _grey(picture, file_format).convert("RGB")
    if picture.has_transparency_data:
        opaque = Image.new("RGBA", picture.size, BACKGROUND)
        return Image.alpha_composite(opaque, picture.convert("RGBA")).convert("RGB")
    if picture.mode == "CMYK" and "icc_profile" in picture.info:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a broken profile: as if there were none
            profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(picture, profile, srgb, outputMode="RGB") or picture
    return picture.convert("RGB")


def orientation(picture: Image.Image) -> int:
    """EXIF's number, 1 (upright) to 8; 1 where there is none that can be read."""
    try:
        number = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF raises exceptions of every kind, and a viewer shows the picture
        return 1
    return number if number in range(1, 9) else 1


def displayed_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height as a viewer shows them, without decoding the pixels."""
    width, height = picture.size
    return (height, width) if orientation(picture) in SIDEWAYS else (width, height)


def _grey(picture: Image.Image, file_format: str | None) -> Image.Image:
    """A picture of one channel of more than 8 bits, in 8."""
    values = np.asarray(picture)
    if picture.mode == "F":
        if not np.all((values >= 0) & (values <= 1)):  # False for NaN, too
            raise ValueError("floating-point pixels outside 0 to 1: save it with 8 bits a channel")
        return Image.fromarray(np.round(values * 255).astype(np.uint8))
    # Pillow gives the 16 bits of a PNG or PPM as integers of 32, too; those of others have no known white.
    if picture.mode == "I" and file_format not in ("PNG", "PPM"):
        raise ValueError("pixels of 32 bits: save it with 8 bits a channel")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))
