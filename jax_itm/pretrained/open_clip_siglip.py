"""SigLIP as open_clip describes and names it: a timm image encoder, and a text encoder without a mask.

Its fields and weights become those of the transformers library's SigLIP, which the other modules know.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# timm's vit_SIZE_patchP_siglip_PIXELS: width, layers, heads, width of the MLP.
SIZES = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
TIMM_NAME = r"vit_(\w+)_patch(\d+)_siglip_(\d+)"
# Those of SigLIP 2 alone have the approximate GELU of its training; timm gives the older ones the exact one.
TANH = r"vit_(giantopt_|base_patch32|large_patch16_siglip_512|so400m_patch16)"

TEXT_NEEDS = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
TEXT_FIELDS = ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio")
TEXT_OTHERS = ("hf_tokenizer_name", "tokenizer_kwargs", "norm_kwargs", "act_kwargs")
IMAGE_NEEDS = {"timm_pool": "map", "timm_proj": "none"}
IMAGE_OTHERS = ("image_size", "timm_model_name", "timm_model_pretrained")

NAMES = {  # of modules and arrays, from open_clip's and timm's to the transformers library's
    r"visual\.trunk\.pos_embed$": "vision_model.embeddings.position_embedding.weight",
    r"visual\.trunk\.patch_embed\.proj\.": "vision_model.embeddings.patch_embedding.",
    r"visual\.trunk\.blocks\.": "vision_model.encoder.layers.",
    r"visual\.trunk\.norm\.": "vision_model.post_layernorm.",
    r"visual\.trunk\.attn_pool\.latent$": "vision_model.head.probe",
    r"visual\.trunk\.attn_pool\.norm\.": "vision_model.head.layernorm.",
    r"visual\.trunk\.attn_pool\.mlp\.": "vision_model.head.mlp.",
    r"visual\.trunk\.attn_pool\.proj\.": "vision_model.head.attention.out_proj.",
    r"visual\.trunk\.attn_pool\.q\.": "vision_model.head.attention.q_proj.",
    r"visual\.trunk\.attn_pool\.kv\.": "vision_model.head.attention.kv.",
    r"text\.positional_embedding$": "text_model.embeddings.position_embedding.weight",
    r"text\.token_embedding\.": "text_model.embeddings.token_embedding.",
    r"text\.transformer\.resblocks\.": "text_model.encoder.layers.",
    r"text\.ln_final\.": "text_model.final_layer_norm.",
    r"text\.text_projection\.": "text_model.head.",
}
LAYER_NAMES = {
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
    ".attn.proj.": ".self_attn.out_proj.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.in_proj_": ".self_attn.qkv.",
}


def is_siglip(model: Mapping[str, Any]) -> bool:
    """Whether a model_cfg's image encoder is one of timm's for SigLIP."""
    vision = model.get("vision_cfg")
    name = vision.get("timm_model_name") if isinstance(vision, Mapping) else None
    return isinstance(name, str) and re.fullmatch(TIMM_NAME, name) is not None


def siglip_fields(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model_cfg with the fields of the transformers library's SigLIP.

    Raises:
        ValueError, TypeError, KeyError: it has a part that SigLIP's encoders here have not.
    """
    vision = model["vision_cfg"]
    text = model["text_cfg"]
    _check_section("vision_cfg", vision, IMAGE_NEEDS, IMAGE_OTHERS)
    _check_section("text_cfg", text, TEXT_NEEDS, (*TEXT_FIELDS, *TEXT_OTHERS))
    name = vision["timm_model_name"]
    size, patch, pixels = re.fullmatch(TIMM_NAME, name).groups()  # type: ignore[union-attr]  # by is_siglip
    if size not in SIZES:
        raise ValueError(f"timm_model_name {name!r}; known sizes are {', '.join(SIZES)}")
    width, layers, heads, mlp = SIZES[size]
    is_tanh = text.get("act_kwargs", {}) == {"approximate": "tanh"}
    if text.get("act_kwargs") and not is_tanh:
        raise ValueError(f"text_cfg has act_kwargs {text['act_kwargs']!r}")
    return {
        "model_type": "siglip",
        "vision_config": {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": mlp,
            "patch_size": int(patch),
            "image_size": vision.get("image_size", int(pixels)),
            "hidden_act": "gelu_pytorch_tanh" if re.match(TANH, name) else "gelu",
        },
        "text_config": {
            "hidden_size": text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "intermediate_size": int(float(text["width"]) * float(text.get("mlp_ratio", 4.0))),
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "hidden_act": "gelu_pytorch_tanh" if is_tanh else "gelu",
            "layer_norm_eps": text.get("norm_kwargs", {}).get("eps", 1e-5),
            "projection_size": model["embed_dim"],
        },
    }


def _check_section(name: str, section: Any, needs: Mapping[str, Any], others: tuple[str, ...]) -> None:
    if not isinstance(section, Mapping):
        raise ValueError(f"{name} is {section!r}, not a table")
    for field, value in needs.items():
        if section.get(field) != value:
            raise ValueError(f"{name} has {field} {section.get(field)!r}, SigLIP's encoder needs {value!r}")
    for field, value in section.items():
        if value and field not in (*needs, *others):
            raise ValueError(f"{name} has {field} {value!r}, and SigLIP's encoders have no such part")


def renamed(name: str, names: Mapping[str, str], parts: Mapping[str, str]) -> str:
    """A name whose beginning is replaced by the first of `names` that matches, and then its `parts`."""
    pattern = next((pattern for pattern in names if re.match(pattern, name)), None)
    if pattern:
        name = re.sub(f"^{pattern}", names[pattern], name)
    for part, replacement in parts.items():
        name = name.replace(part, replacement)
    return name


def siglip_arrays(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """One of open_clip's arrays by SigLIP's names; two or three, if it holds queries, keys and values."""
    name = renamed(name, NAMES, LAYER_NAMES)
    joint = re.fullmatch(r"(.*)\.(qkv|kv)\.(weight|bias)", name)
    if not joint or len(value) % len(joint[2]):
        yield name, value
        return
    for part, rows in zip(joint[2], np.split(value, len(joint[2])), strict=True):
        yield f"{joint[1]}.{part}_proj.{joint[3]}", rows
