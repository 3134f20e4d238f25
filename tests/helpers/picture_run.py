"""A run on pictures that is trained in seconds, for what is evaluated on pictures of other sets."""

from pathlib import Path

import numpy as np

from jax_itm.cli.main import main
from tests.helpers.pictures import picture
from tests.helpers.tiny_run import QUICK

WORDS = ["red", "blue", "green", "dog", "cat", "bird", "runs", "jumps", "sits", "fast", "slow"]
CONFIG = """
from jax_itm.config import default

def get_config():
    config = default("info_nce")
    config.name, config.dim, config.batch_size, config.duration = "tiny", 8, 8, "2 steps"
    config.data.name, config.data.modality, config.data.min_count = "folder", "pixels", 1
    config.data.max_words, config.data.image_size = 12, 16
    config.image.name, config.image.patch = "vit", 8
    config.image.width, config.image.layers, config.image.heads = 8, 1, 2
    config.evaluate.every, config.evaluate.batch_size = "2 steps", 8
    return config
"""


def write_pictures(folder: Path, images: int = 24) -> dict[str, str]:
    """Pictures of three splits with five captions each; returns the captions by ids like Flickr8k's."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["path,caption,split"]
    captions = {}
    for k in range(images):
        split = "test" if k % 2 else "train" if k % 4 else "val"
        picture(k).save(folder / f"{k}.jpg")
        for number in range(5):
            captions[f"{k}.jpg#{number}"] = text = " ".join(rng.permutation(WORDS)[:5])
            lines.append(f"{k}.jpg,{text},{split}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return captions


def trained(place: Path) -> dict[str, str]:
    """Prepares the pictures in `place`/data and trains `place`/run; returns the captions."""
    captions = write_pictures(place / "raw")
    (place / "tiny.py").write_text(CONFIG)
    data = str(place / "data")
    assert main(["prepare", "folder", "--source", str(place / "raw"), "--data_dir", data]) == 0
    command = ["train", "--config", f"{place}/tiny.py", "--workdir", str(place / "run")]
    assert main([*command, f"--config.data.data_dir={data}", *QUICK]) == 0
    return captions
