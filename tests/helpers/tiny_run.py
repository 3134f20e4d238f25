"""A run that is trained in seconds: its config, its data, and its parameters."""

from pathlib import Path

import jax
import numpy as np

import jax_itm
from jax_itm.checkpoint.checkpoints import Checkpoints
from jax_itm.cli.main import main

WORDS = [f"word{k}" for k in range(24)]

CONFIG = """
from configs.dias_f8k import setting
from jax_itm.config import default, options

def get_config(arg=""):
    config = setting(default(options(arg, method="dias")["method"]))
    config.name, config.dim, config.batch_size, config.duration = "tiny", 16, 16, "60 steps"
    config.optimizer.lr, config.optimizer.warmup = 1e-2, "2 steps"
    config.text.word_dim, config.evaluate.every, config.log_every = 8, "30 steps", 5
    config.evaluate.batch_size, config.data.max_regions = 16, 3
    config.data.max_words, config.data.min_count = 8, 1
    return config
"""


def write_precomp(folder: Path, splits: dict[str, int], size: int = 12) -> Path:
    """SCAN's layout; an image's regions are the vectors of its three words, so there is much to learn."""
    folder.mkdir()
    table = np.random.default_rng(0).normal(size=(len(WORDS), size))
    for split, images in splits.items():
        rng = np.random.default_rng(len(split))
        chosen = np.stack([rng.permutation(len(WORDS))[:3] for _ in range(images)])
        np.save(folder / f"{split}_ims.npy", table[chosen].astype(np.float16))
        lines = [" ".join(WORDS[w] for w in rng.permutation(row)) for row in chosen for _ in range(5)]
        (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n")
    return folder


def prepared(place: Path, **images: int) -> Path:
    """Puts a config and prepared data, so many images a split, into a folder; returns it."""
    source = write_precomp(place / "raw", images)
    (place / "tiny.py").write_text(CONFIG)
    assert main(["prepare", "precomp", "--source", str(source), "--data_dir", str(place / "data")]) == 0
    return place


def train(place: Path, run: str, *overrides: str, arg: str = "") -> int:
    command = ["train", "--config", f"{place}/tiny.py{arg}", "--workdir", str(place / run)]
    return main([*command, f"--config.data.data_dir={place}/data", *overrides])


# Encoders that are quick to compile, where another thing is tested.
QUICK = tuple(f"--config.{x}" for x in ("text.name=bow", "text.pooling=mean", "image.pooling=mean"))


def params_of_best(workdir: Path):
    return jax.tree.map(np.asarray, jax_itm.load(str(workdir)).params)


def params(workdir: Path):
    return jax.tree.map(np.asarray, jax_itm.load(str(workdir), step=Checkpoints(str(workdir)).latest).params)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
