"""Published weights: state dicts, and a model's directory as Hugging Face's libraries save it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jax_itm.data.sources.raw import read_table
from jax_itm.errors import UserError, listed

DESCRIPTION, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"  # of weights in several files
SAFE_TORCH = (2, 6)  # before it, a file could run code in spite of `weights_only` (CVE-2025-32434)


def read_state(path: str) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file, or of what `torch.save` wrote, which needs PyTorch.

    Raises:
        UserError: a library is missing, or the file holds something other than named arrays.
    """
    with open(path, "rb"):  # a file that is not there is said in the system's words, by all formats
        pass
    state = _read_safetensors(path) if Path(path).suffix == ".safetensors" else _read_torch(path)
    renamed = {_newer(name): value for name, value in state.items()}
    if len(renamed) < len(state):
        raise UserError(f"{path}: has a LayerNorm's values twice, as weight or bias and as gamma or beta")
    return renamed


def _newer(name: str) -> str:
    """Old BERT code called a LayerNorm's weight gamma and its bias beta."""
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise UserError(f"{path}: needs the package safetensors (pip install safetensors)") from error
    try:
        return load_file(path)
    except Exception as error:  # the library's own class, and others for kinds of number
        raise UserError(f"{path}: cannot be read as safetensors ({_line(error)})") from error


def _read_torch(path: str) -> dict[str, np.ndarray]:
    try:
        import torch  # pyright: ignore[reportMissingImports]  # optional
    except ImportError as error:
        raise UserError(
            f"{path}: needs PyTorch (pip install torch); a .safetensors file is read without it"
        ) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise UserError(
            f"{path}: PyTorch {torch.__version__} may run what others put into it; pip install 'torch>=2.6'"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, of zip files, and PyTorch's
        raise UserError(f"{path}: PyTorch cannot read weights in it ({_line(error)})") from error
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: holds a {type(state).__name__}, not a state dict")
    strange = [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise UserError(f"{path}: not a plain state dict: {listed(strange)} hold no array")
    try:
        return {str(name): value.float().numpy() for name, value in state.items()}
    except Exception as error:  # a sparse array, one without storage
        raise UserError(f"{path}: holds other than plain arrays ({_line(error)})") from error


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def find(path: str, field: str) -> Path:
    """The directory that `path` names, here or on the hub, whose files are fetched and kept.

    Args:
        path: a directory, or a name on the hub, such as "openai/clip-vit-base-patch32".
        field: of the config, for errors.

    Raises:
        UserError: it is neither, or the hub cannot be reached and has not been before.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", path) or path.startswith("."):
        raise UserError(f"{field}={path}: no such directory, and no name on the hub (owner/model)")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(path, allow_patterns=["*.json", "*.txt", "model*.safetensors"]))
        if not any(folder.glob("model*.safetensors")):
            snapshot_download(path, allow_patterns=["open_clip_model.safetensors"])
        return folder
    except Exception as error:  # of the hub, of the network, of the disk
        raise UserError(
            f"{field}={path}: no such directory, and not to be had from the hub ({_line(error)})"
        ) from error


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a directory's model.safetensors, or of the files that its index names, by name.

    Raises:
        UserError: there is neither, or the index and its files do not fit each other.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).is_file():
        return read_state(str(folder / WEIGHTS))
    if not index.exists():
        raise UserError(f"{folder}: no {WEIGHTS} there")
    places = read_table(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f"{index}: has no weight_map of names and files")
    state = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file or not os.path.isfile(folder / file):  # Path's fails on long names
            raise UserError(f"{index}: names {file}, which is not beside it")
        part = read_state(str(folder / file))
        if strange := part.keys() ^ {_newer(name) for name, place in places.items() if place == file}:
            raise UserError(f"{folder / file}: has not what {INDEX} says it has: {listed(strange)}")
        state |= part
    return state
