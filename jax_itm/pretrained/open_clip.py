"""Directories of pretrained encoders that open_clip saved.

They are read as the transformers library's CLIP, whose fields and names the other modules
know: open_clip_config.json becomes a config.json and a preprocessor's file, and each weight gets CLIP's name
there.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jax_itm.data.sources.raw import read_table
from jax_itm.errors import UserError
from jax_itm.pretrained.files import INDEX, WEIGHTS, read_state_dict
from jax_itm.pretrained.open_clip_siglip import is_siglip, renamed, siglip_arrays, siglip_fields

CONFIG = "open_clip_config.json"
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")

# Fields of the sections of model_cfg -> (their names in the transformers library, open_clip's defaults).
IMAGE_FIELDS = {
    "width": ("hidden_size", 768),
    "layers": ("num_hidden_layers", 12),
    "patch_size": ("patch_size", 16),
    "image_size": ("image_size", 224),
}
TEXT_FIELDS = {
    "width": ("hidden_size", 512),
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 8),
    "vocab_size": ("vocab_size", 49408),
    "context_length": ("max_position_embeddings", 77),
}
OTHER_FIELDS = ("mlp_ratio", "head_width", "patch_dropout")  # read below; the last matters in training alone
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
LAYER_NAMES = {
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
}
PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def is_open_clip(folder: Path) -> bool:
    """Whether open_clip alone saved a directory; if both did, Hugging Face's files are read."""
    return (folder / CONFIG).exists() and not any((folder / name).exists() for name in (WEIGHTS, INDEX))


def open_clip_description(folder: Path) -> dict[str, Any]:
    """What open_clip_config.json says, with the fields of the transformers library's config.json.

    Raises:
        UserError: the model has a part that the encoders here have not.
    """
    file = folder / CONFIG
    model = _section(folder, "model_cfg")
    try:
        if is_siglip(model):
            return siglip_fields(model)
        image = _encoder_fields(model["vision_cfg"], IMAGE_FIELDS, "vision_cfg")
        text = _encoder_fields(model["text_cfg"], TEXT_FIELDS, "text_cfg")
        image["num_attention_heads"] = image["hidden_size"] // model["vision_cfg"].get("head_width", 64)
    except KeyError as error:
        raise UserError(f"{file}: model_cfg has no {error.args[0]}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{file}: not understood here: {error}") from error
    act = {"hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu"}
    return {
        "model_type": "clip",
        "projection_dim": model.get("embed_dim", 512),
        "vision_config": image | act,
        "text_config": text | act,
    }


def _encoder_fields(section: Any, fields: Mapping[str, tuple[str, Any]], name: str) -> dict[str, Any]:
    """A section of model_cfg with the transformers library's fields."""
    if not isinstance(section, dict):
        raise ValueError(f"{name} is {section!r}, not a table")
    for field, value in section.items():
        if value and field not in (*fields, *OTHER_FIELDS):
            raise ValueError(f"{name} has {field} {value!r}, and CLIP's encoders have no such part")
    renamed = {published: section.get(field, default) for field, (published, default) in fields.items()}
    # float(): a long text times a large number would fill the memory.
    mlp = int(float(renamed["hidden_size"]) * float(section.get("mlp_ratio", 4.0)))
    return renamed | {"intermediate_size": mlp}


def _section(folder: Path, name: str) -> dict[str, Any]:
    section = read_table(folder / CONFIG).get(name)
    if not isinstance(section, dict):
        raise UserError(f"{folder / CONFIG}: has no {name}")
    return section


def cleans_punctuation(folder: Path) -> bool:
    """Whether open_clip takes a text's punctuation away before SigLIP 2's tokenizer sees it."""
    if not is_open_clip(folder):
        return False
    text = _section(folder, "model_cfg").get("text_cfg")
    options = text.get("tokenizer_kwargs") if isinstance(text, dict) else None
    return isinstance(options, dict) and options.get("clean") == "canonicalize"


def preprocessor_fields(folder: Path) -> dict[str, Any]:
    """What open_clip_config.json says of pictures, with the fields of a preprocessor_config.json.

    Raises:
        UserError: it says nothing of them, or brings them to one size in a way that is not known here.
    """
    section = _section(folder, "preprocess_cfg")
    size = section.get("size") or open_clip_description(folder)["vision_config"]["image_size"]
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    mode = section.get("resize_mode") or "shortest"
    resample = section.get("interpolation") or "bicubic"
    if mode not in ("shortest", "squash") or resample not in [*RESAMPLE] or height != width:
        raise UserError(
            f"{folder / CONFIG}: not understood here: resize_mode {mode!r}, {resample!r}, to {size!r}"
        )
    fields = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"height": height, "width": width} if mode == "squash" else {"shortest_edge": height},
        "do_center_crop": mode == "shortest",
        "crop_size": height,
        "resample": RESAMPLE[resample],
    }
    for name, published in (("mean", "image_mean"), ("std", "image_std")):
        value = section.get(name)
        if value is not None:
            fields[published] = value if isinstance(value, list) else [value] * 3
    return fields


def open_clip_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a directory of open_clip's by the names that the transformers library gives them.

    An unknown array of open_clip's keeps its name, which no encoder has, so that the array is refused.

    Raises:
        UserError: there are none, they cannot be read, or one has two values.
    """
    file = next((folder / name for name in FILES if (folder / name).exists()), None)
    if file is None:
        raise UserError(f"{folder}: neither {WEIGHTS} nor {FILES[0]} nor {FILES[-1]} there")
    arrays: dict[str, np.ndarray] = {}
    by_their_names = siglip_arrays if is_siglip(_section(folder, "model_cfg")) else _clip_arrays
    for name, value in read_state_dict(str(file)).items():
        for new_name, part in by_their_names(name, value):
            if new_name in arrays:
                raise UserError(f"{file}: has {new_name} twice, once as {name}")
            arrays[new_name] = part
    return arrays


def _clip_arrays(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """One of open_clip's arrays with CLIP's name; three, if it holds queries, keys and values together."""
    if name in PROJECTIONS:
        yield PROJECTIONS[name], value.T  # of x @ p, not a Linear's
        return
    name = renamed(name, NAMES, LAYER_NAMES)
    joint = re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name)
    if not joint or len(value) % 3:
        yield name, value
        return
    for part, third in zip("qkv", np.split(value, 3), strict=True):
        yield f"{joint[1]}.self_attn.{part}_proj.{joint[2]}", third
