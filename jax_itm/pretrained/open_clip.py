"""Pretrained towers' directories, whoever saved them: Hugging Face's libraries, or open_clip.

What open_clip saved is read as the transformers library's CLIP, whose words and names the other rooms know:
open_clip_config.json becomes a config.json and a preprocessor's file, and each weight gets CLIP's name there.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jax_itm.data.sources.raw import read_table
from jax_itm.errors import UserError
from jax_itm.pretrained.files import DESCRIPTION, INDEX, WEIGHTS, read_state, read_weights

CONFIG = "open_clip_config.json"
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")

# Of the sections of model_cfg: the transformers library's name of each field, and open_clip's default.
IMAGE = {
    "width": ("hidden_size", 768),
    "layers": ("num_hidden_layers", 12),
    "patch_size": ("patch_size", 16),
    "image_size": ("image_size", 224),
}
TEXT = {
    "width": ("hidden_size", 512),
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 8),
    "vocab_size": ("vocab_size", 49408),
    "context_length": ("max_position_embeddings", 77),
}
OTHERS = ("mlp_ratio", "head_width", "patch_dropout")  # read below; the last matters in training alone
RESAMPLE = {"bicubic": 3, "random": 3, "bilinear": 2}  # as Pillow numbers them

NAMES = {  # of modules and arrays, from open_clip's to the transformers library's
    r"visual\.class_embedding": "vision_model.embeddings.class_embedding",
    r"visual\.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    r"visual\.conv1\.": "vision_model.embeddings.patch_embedding.",
    r"visual\.ln_pre\.": "vision_model.pre_layrnorm.",
    r"visual\.ln_post\.": "vision_model.post_layernorm.",
    r"visual\.transformer\.resblocks\.": "vision_model.encoder.layers.",
    r"positional_embedding$": "text_model.embeddings.position_embedding.weight",
    r"token_embedding\.": "text_model.embeddings.token_embedding.",
    r"ln_final\.": "text_model.final_layer_norm.",
    r"transformer\.resblocks\.": "text_model.encoder.layers.",
}
LAYER = {
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
}
PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def is_open_clip(folder: Path) -> bool:
    """Whether open_clip alone saved a directory; where both did, Hugging Face's files are read."""
    return (folder / CONFIG).exists() and not any((folder / name).exists() for name in (WEIGHTS, INDEX))


def described_in(folder: Path) -> Path:
    """The file of a tower's directory that says what the tower is."""
    return folder / (CONFIG if is_open_clip(folder) else DESCRIPTION)


def description(folder: Path) -> dict[str, Any]:
    """What that file says, in the words of the transformers library's config.json.

    Raises:
        UserError: the file is missing, or open_clip's model has a part that CLIP's towers here have not.
    """
    if not is_open_clip(folder):
        return read_table(described_in(folder))
    where, said = folder / CONFIG, _section(folder, "model_cfg")
    try:
        sides = {
            "vision_config": _tower(said["vision_cfg"], IMAGE, "vision_cfg"),
            "text_config": _tower(said["text_cfg"], TEXT, "text_cfg"),
        }
        image = sides["vision_config"]
        image["num_attention_heads"] = image["hidden_size"] // said["vision_cfg"].get("head_width", 64)
    except KeyError as error:
        raise UserError(f"{where}: model_cfg has no {error.args[0]}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{where}: not understood here: {error}") from error
    act = {"hidden_act": "quick_gelu" if said.get("quick_gelu") else "gelu"}
    sides = {name: side | act for name, side in sides.items()}
    return {"model_type": "clip", "projection_dim": said.get("embed_dim", 512), **sides}


def _tower(said: Any, fields: Mapping[str, tuple[str, Any]], section: str) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise ValueError(f"{section} is {said!r}, not a table")
    for name, value in said.items():
        if value and name not in (*fields, *OTHERS):
            raise ValueError(f"{section} has {name} {value!r}, and CLIP's towers have no such part")
    found = {theirs: said.get(ours, default) for ours, (theirs, default) in fields.items()}
    # float(): else a long text times a large number would fill the memory.
    return found | {"intermediate_size": int(float(found["hidden_size"]) * float(said.get("mlp_ratio", 4.0)))}


def _section(folder: Path, name: str) -> dict[str, Any]:
    found = read_table(folder / CONFIG).get(name)
    if not isinstance(found, dict):
        raise UserError(f"{folder / CONFIG}: has no {name}")
    return found


def preprocessor(folder: Path) -> dict[str, Any]:
    """What open_clip_config.json says of pictures, in the words of a preprocessor_config.json.

    Raises:
        UserError: it says nothing of them, or brings them to one size in a way that is not known here.
    """
    said, where = _section(folder, "preprocess_cfg"), folder / CONFIG
    size = said.get("size") or description(folder)["vision_config"]["image_size"]
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    mode, kind = said.get("resize_mode") or "shortest", said.get("interpolation") or "bicubic"
    if mode not in ("shortest", "squash") or kind not in [*RESAMPLE] or height != width:
        raise UserError(f"{where}: not understood here: resize_mode {mode!r}, {kind!r}, to {size!r}")
    found = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"height": height, "width": width} if mode == "squash" else {"shortest_edge": height},
        "do_center_crop": mode == "shortest",
        "crop_size": height,
        "resample": RESAMPLE[kind],
    }
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if (value := said.get(ours)) is not None:
            found[theirs] = value if isinstance(value, list) else [value] * 3
    return found


def weights(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a tower's directory by the names that Hugging Face's libraries give them.

    An unknown array of open_clip's keeps its name, so that a tower, which has none of that name, refuses it.

    Raises:
        UserError: there are none, they cannot be read, or one has two values.
    """
    if not is_open_clip(folder):
        return read_weights(folder)
    file = next((folder / name for name in FILES if (folder / name).exists()), None)
    if file is None:
        raise UserError(f"{folder}: neither {WEIGHTS} nor {FILES[0]} nor {FILES[-1]} there")
    found: dict[str, np.ndarray] = {}
    for name, value in read_state(str(file)).items():
        for new, part in _renamed(name, value):
            if new in found:
                raise UserError(f"{file}: has {new} twice, once as {name}")
            found[new] = part
    return found


def _renamed(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """CLIP's names of one of open_clip's arrays, which holds queries, keys and values together."""
    if name in PROJECTIONS:
        yield PROJECTIONS[name], value.T  # of x @ p, not a Linear's
        return
    pattern = next((pattern for pattern in NAMES if re.match(pattern, name)), None)
    if pattern:
        name = re.sub(f"^{pattern}", NAMES[pattern], name)
    for theirs, ours in LAYER.items():
        name = name.replace(theirs, ours)
    joined = re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name)
    if not joined or len(value) % 3:
        yield name, value
        return
    for part, third in zip("qkv", np.split(value, 3), strict=True):
        yield f"{joined[1]}.self_attn.{part}_proj.{joined[2]}", third
