"""Files of published weights: state dicts, and directories in the format of Hugging Face."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jax_itm.data.sources.raw import read_table
from jax_itm.errors import UserError, listed

DESCRIPTION = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"  # of weights in several files
TORCH_WEIGHTS = "pytorch_model.bin"  # as saved before safetensors; read where there are no others
SAFE_TORCH = (2, 6)  # older versions let a file run code in spite of `weights_only` (CVE-2025-32434)


def read_state_dict(path: str) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file, or of a file that `torch.save` wrote, which needs PyTorch.

    Raises:
        UserError: a library is missing, or the file holds something else than named arrays.
    """
    with open(path, "rb"):  # all formats report a missing file in the system's words
        pass
    state = _read_safetensors(path) if Path(path).suffix == ".safetensors" else _read_torch(path)
    renamed = {_current_name(name): value for name, value in state.items()}
    if len(renamed) < len(state):
        raise UserError(f"{path}: has values of a LayerNorm twice, as weight or bias and as gamma or beta")
    return renamed


def _current_name(name: str) -> str:
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
        raise UserError(f"{path}: cannot be read as safetensors ({one_line(error)})") from error


def _read_torch(path: str) -> dict[str, np.ndarray]:
    try:
        import torch  # pyright: ignore[reportMissingImports]  # optional
    except ImportError as error:
        raise UserError(
            f"{path}: needs PyTorch (pip install -e .[convert]); a .safetensors file is read without it"
        ) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise UserError(
            f"{path}: PyTorch {torch.__version__} may run code that the file holds; pip install 'torch>=2.6'"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, of zip files, and PyTorch's
        raise UserError(f"{path}: PyTorch cannot read weights in it ({one_line(error)})") from error
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: holds a {type(state).__name__}, not a state dict")
    not_arrays = [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if not_arrays:
        raise UserError(f"{path}: not a plain state dict: {listed(not_arrays)} hold no array")
    try:
        return {str(name): value.float().numpy() for name, value in state.items()}
    except Exception as error:  # a sparse array, one without storage
        raise UserError(f"{path}: holds something else than plain arrays ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    """What an error of another library says, or else its class, in one line of 200 characters at most."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def find_directory(path: str, field: str) -> Path:
    """The directory that `path` names: a local one, or a copy of a repository on the hub.

    Args:
        path: a directory, or a name on the hub, such as "openai/clip-vit-base-patch32".
        field: of the config, for errors.

    Raises:
        UserError: it is neither, or the hub cannot be reached and no copy was kept.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise UserError(f"{field}={path}: is a file; name the directory that it is in")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", path) or path.startswith("."):
        raise UserError(f"{field}={path}: no such directory, and not a name on the hub (owner/model)")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(path, allow_patterns=["*.json", "*.txt", "model*.safetensors"]))
        for file in ("open_clip_model.safetensors", TORCH_WEIGHTS, "*.npz"):  # where there are no others
            if not any(any(folder.glob(kind)) for kind in ("*.safetensors", TORCH_WEIGHTS)):
                snapshot_download(path, allow_patterns=[file])
        return folder
    except Exception as error:  # of the hub, of the network, of the disk
        raise UserError(
            f"{field}={path}: no such directory, and the hub did not provide it ({one_line(error)})"
        ) from error


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a directory, by name: of model.safetensors, or of the files that its index names.

    Without these, pytorch_model.bin is read, which needs PyTorch and runs no code that the file may hold.

    Raises:
        UserError: there is none of them, or the index and its files do not agree.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).is_file():
        return read_state_dict(str(folder / WEIGHTS))
    if not index.exists() and (folder / TORCH_WEIGHTS).is_file():
        return read_state_dict(str(folder / TORCH_WEIGHTS))
    if (folder / f"{TORCH_WEIGHTS}.index.json").exists() and not index.exists():
        raise UserError(
            f"{folder}: its weights are in several {TORCH_WEIGHTS} files, which are not read here; save it"
            " anew with transformers: AutoModel.from_pretrained(DIR).save_pretrained(NEW)"
        )
    if not index.exists():
        raise UserError(f"{folder}: neither {WEIGHTS} nor {TORCH_WEIGHTS} there")
    files = read_table(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise UserError(f"{index}: has no weight_map from names to files")
    state = {}
    for file in sorted(set(files.values())):
        if Path(file).name != file or not os.path.isfile(folder / file):  # Path's fails on long names
            raise UserError(f"{index}: names {file}, which is not beside it")
        part = read_state_dict(str(folder / file))
        expected = {_current_name(name) for name, holder in files.items() if holder == file}
        if different := part.keys() ^ expected:
            raise UserError(f"{folder / file}: does not hold what {INDEX} says it holds: {listed(different)}")
        state |= part
    return state
