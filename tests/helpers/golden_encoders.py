"""The pretrained encoders of tests/goldens, as directories that a run can start from."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

GOLDENS = Path(__file__).parents[1] / "goldens"  # made by goldens/make_encoders.py

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnop"]

RUN = """
from jax_itm.config import default

def get_config():
    config = default("vsepp")
    config.name, config.dim, config.batch_size, config.duration = "tiny", 8, 8, "2 steps"
    config.text.name, config.text.frozen, config.evaluate.batch_size = "pretrained", True, 8
    config.data.name, config.data.validation, config.data.max_words = "precomp", "dev", 8
    config.data.max_regions, config.evaluate.every, config.log_every = 3, "2 steps", 1
    config.losses.triplet.sum_for = "1 steps"
    config.image.pooling = config.text.pooling = "mean"  # GPO is slow to compile
    return config
"""


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / f"encoder_{name}.npz") as file:
        return dict(file)


def written(name: str, folder: Path) -> dict[str, np.ndarray]:
    """Writes a golden encoder as a directory; returns its inputs and outputs."""
    arrays = golden(name)
    weights = {k.removeprefix("weight/"): x for k, x in arrays.items() if k.startswith("weight/")}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(str(arrays["config"]))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    save_file({k: x.astype(np.float32) for k, x in weights.items()}, folder / "model.safetensors")
    return {k: x for k, x in arrays.items() if not k.startswith("weight/")}


def clip_files(actual, folder: Path, *names: str):
    for name in names:
        (folder / name).write_text(str(actual[name]), encoding="utf-8")


def clip_with(folder: Path, **arrays) -> None:
    """CLIP's directory with its tokenizer and more arrays."""
    clip_files(written("clip", folder), folder, "vocab.json", "merges.txt")
    (folder / "preprocessor_config.json").write_text('{"size": 32, "crop_size": 32}')
    file = folder / "model.safetensors"
    state = {name: x for name, x in load_file(file).items() if name != "logit_scale"}
    save_file(state | {name.replace("__", "."): x for name, x in arrays.items()}, file)
