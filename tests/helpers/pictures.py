"""Small pictures, a folder of them, and Karpathy's JSON about two of them."""

import io
import os

import numpy as np
from PIL import Image


def picture(seed: int, size=(20, 12)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def write_folder(folder, count=3):
    (folder / "images").mkdir(parents=True)
    for k in range(count):
        picture(k).save(folder / "images" / f"{k}.jpg")
    return folder


def replace_unnoticed(file):
    """Puts another picture, of as many bytes and the same date, in the place of one."""
    before = file.stat()
    Image.new("RGB", Image.open(file).size, "red").save(file)
    contents = file.read_bytes()
    file.write_bytes(contents + bytes(before.st_size - len(contents)))  # what follows its end is not read
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def karpathy(**changes):
    image = {"filename": "0.jpg", "split": "restval", "sentences": [{"raw": "A dog"}] * 2}
    return {"images": [image, image | {"filename": "1.jpg", "split": "test"} | changes]}


def truncated_jpeg() -> bytes:
    file = io.BytesIO()
    picture(0, (64, 64)).save(file, "JPEG")
    return file.getvalue()[: len(file.getvalue()) // 2]
