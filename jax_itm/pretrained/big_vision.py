"""SigLIP and SigLIP 2 as google-research/big_vision saves them: one .npz of Flax parameters, and no config.

What a config.json would say is in the shapes, the number of heads too: an attention's kernel is (width,
heads, size). The arrays get the names and layouts of the transformers library's SigLIP, which the other
modules know. Names and shapes are those of big_vision's models/vit.py, two_towers.py and text_transformer.py
(models/proj/image_text); the layers stand one by one, or stacked along a first axis (`scan=True`).
"""

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_itm.errors import UserError, listed
from jax_itm.pretrained.files import INDEX, TORCH_WEIGHTS, WEIGHTS, one_line

SUFFIX = ".npz"
BLOCK = "encoderblock"  # of one layer, with _0, _1 .. behind it; without these, of all layers stacked
ATTENTION = "MultiHeadDotProductAttention_0"
SCORES = {"t": "logit_scale", "b": "logit_bias"}
BILINEAR = 2  # as Pillow numbers it
Shapes = Mapping[str, tuple[int, ...]]

# Modules of big_vision's -> the transformers library's.
LAYER = {
    "LayerNorm_0": "layer_norm1",
    "LayerNorm_1": "layer_norm2",
    f"{ATTENTION}/query": "self_attn.q_proj",
    f"{ATTENTION}/key": "self_attn.k_proj",
    f"{ATTENTION}/value": "self_attn.v_proj",
    f"{ATTENTION}/out": "self_attn.out_proj",
    "MlpBlock_0/Dense_0": "mlp.fc1",
    "MlpBlock_0/Dense_1": "mlp.fc2",
}
POOLING = {
    "LayerNorm_0": "layernorm",
    f"{ATTENTION}/query": "attention.q_proj",
    f"{ATTENTION}/key": "attention.k_proj",
    f"{ATTENTION}/value": "attention.v_proj",
    f"{ATTENTION}/out": "attention.out_proj",
    "MlpBlock_0/Dense_0": "mlp.fc1",
    "MlpBlock_0/Dense_1": "mlp.fc2",
}
ENCODERS = {"img/Transformer": "vision_model", "txt/Encoder_0": "text_model"}
OTHER_MODULES = {
    "img/embedding": "vision_model.embeddings.patch_embedding",
    "img/Transformer/encoder_norm": "vision_model.post_layernorm",
    "txt/Encoder_0/encoder_norm": "text_model.final_layer_norm",
    "txt/head": "text_model.head",
    **{f"img/MAPHead_0/{ours}": f"vision_model.head.{published}" for ours, published in POOLING.items()},
}
ARRAYS = {
    "img/pos_embedding": "vision_model.embeddings.position_embedding.weight",
    "img/MAPHead_0/probe": "vision_model.head.probe",
    "txt/pos_embedding": "text_model.embeddings.position_embedding.weight",
    "txt/Embed_0/embedding": "text_model.embeddings.token_embedding.weight",
    **SCORES,
}


def is_big_vision(folder: Path) -> bool:
    """Whether the only weights in a directory are .npz files, as big_vision saves them."""
    others = (WEIGHTS, INDEX, TORCH_WEIGHTS)
    return not any((folder / name).exists() for name in others) and any(folder.glob(f"*{SUFFIX}"))


def big_vision_file(folder: Path) -> Path:
    """The .npz file of such a directory.

    Raises:
        UserError: there are several.
    """
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        raise UserError(
            f"{folder}: has {listed([file.name for file in files])}; give each model a directory of its own"
        )
    return files[0]


def big_vision_description(folder: Path) -> dict[str, Any]:
    """What the shapes say of both encoders, with the fields of the transformers library's config.json.

    GELU and the LayerNorms' epsilon are the same in all of big_vision's, and the defaults there.

    Raises:
        UserError: the file is no archive of arrays, or they are not those of a SigLIP of a fixed resolution.
    """
    file = big_vision_file(folder)
    shapes = _read_shapes(file)
    patch, width = _patch(shapes, file)
    _, positions, _ = _shape(shapes, "img/pos_embedding", 3, file)
    side = round(positions**0.5)
    if side * side != positions:
        raise UserError(f"{file}: img/pos_embedding is of {positions} patches, which are no square")
    words, text_width = _shape(shapes, "txt/Embed_0/embedding", 2, file)
    return {
        "model_type": "siglip",
        "vision_config": _sizes(shapes, "img/Transformer", file)
        | {"hidden_size": width, "patch_size": patch, "image_size": side * patch},
        "text_config": _sizes(shapes, "txt/Encoder_0", file)
        | {
            "hidden_size": text_width,
            "vocab_size": words,
            "max_position_embeddings": _shape(shapes, "txt/pos_embedding", 3, file)[1],
            "projection_size": _shape(shapes, "txt/head/kernel", 2, file)[1],
        },
    }


def big_vision_preprocessor(folder: Path) -> dict[str, Any]:
    """How big_vision brings pictures to the encoder's size, as the fields of a preprocessor_config.json."""
    side = big_vision_description(folder)["vision_config"]["image_size"]
    size = {"height": side, "width": side}
    return {"image_processor_type": "SiglipImageProcessor", "size": size, "resample": BILINEAR}


def big_vision_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays by the names, and in the layouts, of the transformers library's SigLIP.

    An array that is not known here keeps its name, which no encoder has, so that it is refused.

    Raises:
        UserError: the file cannot be read, or has a layer twice.
    """
    file = big_vision_file(folder)
    arrays: dict[str, np.ndarray] = {}
    for name, value in _single_layers(_read_arrays(file)):
        if name in arrays:
            raise UserError(f"{file}: has params/{name} twice, alone and among stacked layers")
        arrays[name] = value
    names = _names(arrays)
    return {names.get(name, name): _to_published(name, value) for name, value in arrays.items()}


def _parameters(names: list[str]) -> dict[str, str]:
    """{name without `params/`: name}; checkpoints of a training hold its optimizer beside the parameters."""
    inside = {name.removeprefix("params/"): name for name in names if name.startswith("params/")}
    return inside or {name: name for name in names}


def _read_shapes(file: Path) -> Shapes:
    """The shapes of a file's parameters, from the headers alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            members = [name.removesuffix(".npy") for name in archive.namelist()]
            for name, member in _parameters(members).items():
                with archive.open(f"{member}.npy") as opened:
                    first = np.lib.format.read_magic(opened) == (1, 0)
                    header = (
                        np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                    )
                    shapes[name] = header(opened)[0]
    except Exception as error:  # of zip files, of their compression, and of numpy's headers
        raise UserError(f"{file}: not an .npz file of arrays ({one_line(error)})") from error
    return shapes


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            names = _parameters(archive.files)
            return {name: _with_dtype(archive[member]) for name, member in names.items()}
    except Exception as error:  # of zip files, of their compression, and of numpy's
        raise UserError(f"{file}: not an .npz file of arrays ({one_line(error)})") from error


def _with_dtype(value: np.ndarray) -> np.ndarray:
    """numpy saves bfloat16 as two bytes without a type."""
    return value.view(jnp.bfloat16) if value.dtype == np.dtype("V2") else value


def _shape(shapes: Shapes, name: str, axes: int, file: Path) -> tuple[int, ...]:
    """The shape of a parameter of so many axes.

    Raises:
        UserError: it is not there, or has other axes.
    """
    if name not in shapes:
        raise UserError(f"{file}: has no params/{name}; big_vision's SigLIP (two_towers.py) is read here")
    if len(shapes[name]) != axes:
        raise UserError(f"{file}: params/{name} is {shapes[name]}, SigLIP's encoder needs {axes} axes")
    return shapes[name]


def _patch(shapes: Shapes, file: Path) -> tuple[int, int]:
    """The side of a patch in pixels, and the width of the image encoder."""
    name = "img/embedding/kernel"
    if len(shapes.get(name, ())) == 2:
        raise UserError(
            f"{file}: params/{name} is {shapes[name]}: SigLIP 2 NaFlex, which has no encoder here"
        )
    height, patch, channels, width = _shape(shapes, name, 4, file)
    if height != patch or channels != 3:
        raise UserError(f"{file}: params/{name} is {shapes[name]}, not of square patches of three channels")
    return patch, width


def _sizes(shapes: Shapes, encoder: str, file: Path) -> dict[str, int]:
    """The number of layers and heads, and the width of the MLP.

    Raises:
        UserError: a parameter is missing, or not all layers have as many heads.
    """
    layers = {name: shape for name, shape in shapes.items() if name.startswith(f"{encoder}/{BLOCK}")}
    stacked = int(any(name.startswith(f"{encoder}/{BLOCK}/") for name in layers))
    first = f"{encoder}/{BLOCK}" if stacked else f"{encoder}/{BLOCK}_0"
    query = _shape(shapes, f"{first}/{ATTENTION}/query/kernel", 3 + stacked, file)
    others = [
        shape[-2:-1] for name, shape in layers.items() if re.search(r"/(query|key|value)/kernel$", name)
    ]
    if set(others) != {query[-2:-1]}:
        raise UserError(f"{file}: {encoder} has layers of different numbers of heads")
    return {
        "num_hidden_layers": query[0] if stacked else len({name.split("/")[2] for name in layers}),
        "num_attention_heads": query[-2],
        "intermediate_size": _shape(shapes, f"{first}/MlpBlock_0/Dense_0/kernel", 2 + stacked, file)[-1],
    }


def _single_layers(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays with those of stacked layers one by one."""
    for name, value in arrays.items():
        head, block, tail = name.partition(f"/{BLOCK}/")
        if not block or not value.ndim:
            yield name, value
            continue
        for k, layer in enumerate(value):
            yield f"{head}/{BLOCK}_{k}/{tail}", layer


def _names(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Every name of big_vision's that has a counterpart, and that counterpart."""
    modules = dict(OTHER_MODULES)
    for name in arrays:
        block = re.match(rf"({'|'.join(ENCODERS)})/{BLOCK}_(\d+)/", name)
        if block:
            layer = f"{ENCODERS[block[1]]}.encoder.layers.{block[2]}"
            modules |= {f"{block[0]}{ours}": f"{layer}.{published}" for ours, published in LAYER.items()}
    names = dict(ARRAYS)
    for ours, published in modules.items():
        weight = "scale" if "norm" in published else "kernel"
        names |= {f"{ours}/{weight}": f"{published}.weight", f"{ours}/bias": f"{published}.bias"}
    return names


def _to_published(name: str, value: np.ndarray) -> np.ndarray:
    """A parameter in PyTorch's layout: kernels (out, in) or (out, in, h, w), heads joined."""
    if not value.size or (name.endswith("/kernel") and value.ndim < 2):
        return value  # of no shape that an encoder has; the mapper says so
    if name == "img/embedding/kernel" and value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if name.endswith("/out/kernel"):
        return value.reshape(-1, value.shape[-1]).T
    if name.endswith("/kernel"):
        return value.reshape(len(value), -1).T
    return value.reshape(-1) if name.endswith("/bias") else value
