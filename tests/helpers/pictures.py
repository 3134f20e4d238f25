"""Small pictures, a folder of them, and Karpathy's JSON about two of them."""

import io

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


def karpathy(**changes):
    image = {"filename": "0.jpg", "split": "restval", "sentences": [{"raw": "A dog"}] * 2}
    return {"images": [image, image | {"filename": "1.jpg", "split": "test"} | changes]}


def truncated_jpeg() -> bytes:
    file = io.BytesIO()
    picture(0, (64, 64)).save(file, "JPEG")
    return file.getvalue()[: len(file.getvalue()) // 2]
