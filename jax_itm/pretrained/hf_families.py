"""What Hugging Face's libraries call a tower's fields and weights, `model_type` by `model_type`.

`FAMILIES` says of each what its config.json calls our fields, and `names` which of its weights is which
parameter of the tower: "patches/kernel" in the tower's own tree.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jax_itm.types import Config, NamedTuple


class Family(NamedTuple):
    """One `model_type`."""

    fields: Mapping[str, tuple[str, Any]]  # of the tower: the name in config.json, and its default there
    needs: Mapping[str, Any]  # what config.json must say, where it says it: the tower can do nothing else
    names: Callable[[Config], dict[str, str]]  # of an arch: {their name: path in the tower}
    prefix: str  # of all names where the weights have a head
    unused: tuple[str, ...]  # beginnings of names: heads, and what is not learnt
    fixed: Mapping[str, Any] = MappingProxyType({})  # of the tower: what it is by being of this family
    section: str = ""  # of config.json, where it describes more than one tower
    projection: str = ""  # the weights of CLIP's own projection


def _leaves(modules: Mapping[str, str]) -> dict[str, str]:
    """{their module: our path, whose last part tells the kind of weight} -> {their name: our path}."""
    paths = {}
    for theirs, ours in modules.items():
        paths[f"{theirs}.weight"] = ours
        if not ours.endswith("/embedding"):
            paths[f"{theirs}.bias"] = re.sub(r"[a-z]+$", "bias", ours)
    return paths


def _layers(theirs: str, count: int, modules: Mapping[str, str]) -> dict[str, str]:
    return {
        f"{theirs}.{k}.{name}": f"layer_{k}/{path}" for k in range(count) for name, path in modules.items()
    }


ATTENTION = "MultiHeadDotProductAttention_0"

BERT_LAYER = {
    "attention.self.query": f"{ATTENTION}/query/kernel",
    "attention.self.key": f"{ATTENTION}/key/kernel",
    "attention.self.value": f"{ATTENTION}/value/kernel",
    "attention.output.dense": f"{ATTENTION}/out/kernel",
    "attention.output.LayerNorm": "norm_attention/scale",
    "intermediate.dense": "Mlp_0/Dense_0/kernel",
    "output.dense": "Mlp_0/Dense_1/kernel",
    "output.LayerNorm": "norm_mlp/scale",
}


def bert_names(arch: Config) -> dict[str, str]:
    """BERT's."""
    return _leaves(
        {
            "embeddings.word_embeddings": "words/embedding",
            "embeddings.position_embeddings": "positions/embedding",
            "embeddings.token_type_embeddings": "types/embedding",
            "embeddings.LayerNorm": "norm/scale",
            **_layers("encoder.layer", arch["layers"], BERT_LAYER),
        }
    )


LAYERS = {
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "width": ("hidden_size", 768),
    "mlp": ("intermediate_size", 3072),
    "act": ("hidden_act", "gelu"),
}

BERT = Family(
    fields=LAYERS
    | {
        "norm_eps": ("layer_norm_eps", 1e-12),
        "vocab": ("vocab_size", 30522),
        "positions": ("max_position_embeddings", 512),
        "types": ("type_vocab_size", 2),
    },
    needs={"position_embedding_type": "absolute", "is_decoder": False},
    names=bert_names,
    prefix="bert.",
    unused=("cls.", "pooler.", "classifier.", "qa_outputs.", "embeddings.position_ids"),
)

ATTENTION_INNER = {
    "attention.attention.query": f"{ATTENTION}/query/kernel",
    "attention.attention.key": f"{ATTENTION}/key/kernel",
    "attention.attention.value": f"{ATTENTION}/value/kernel",
    "attention.output.dense": f"{ATTENTION}/out/kernel",
}
VIT_LAYER = ATTENTION_INNER | {
    "layernorm_before": "norm_attention/scale",
    "layernorm_after": "norm_mlp/scale",
    "intermediate.dense": "Mlp_0/Dense_0/kernel",
    "output.dense": "Mlp_0/Dense_1/kernel",
}
DINOV2_LAYER = ATTENTION_INNER | {
    "norm1": "norm_attention/scale",
    "norm2": "norm_mlp/scale",
    "mlp.fc1": "Mlp_0/Dense_0/kernel",
    "mlp.fc2": "Mlp_0/Dense_1/kernel",
}
DINOV2_SCALES = {"layer_scale1.lambda1": "scale_attention", "layer_scale2.lambda1": "scale_mlp"}


def vit_names(arch: Config, layer: Mapping[str, str] = VIT_LAYER) -> dict[str, str]:
    """ViT's."""
    modules = {"embeddings.patch_embeddings.projection": "patches/kernel", "layernorm": "norm/scale"}
    return {
        "embeddings.cls_token": "cls",
        "embeddings.position_embeddings": "positions",
        **_leaves(modules | _layers("encoder.layer", arch["layers"], layer)),
    }


def dinov2_names(arch: Config) -> dict[str, str]:
    """DINOv2's, with registers or without."""
    registers = {"embeddings.register_tokens": "registers"} if arch["registers"] else {}
    scales = _layers("encoder.layer", arch["layers"], DINOV2_SCALES)
    return vit_names(arch, DINOV2_LAYER) | scales | registers


PATCHES = {"patch": ("patch_size", 16), "image_size": ("image_size", 224)}

VIT = Family(
    fields=LAYERS | PATCHES | {"norm_eps": ("layer_norm_eps", 1e-12)},
    needs={"qkv_bias": True, "num_channels": 3},
    names=vit_names,
    prefix="vit.",
    unused=("pooler.", "classifier.", "decoder.", "embeddings.mask_token"),
)

DINOV2 = Family(
    fields={name: LAYERS[name] for name in ("layers", "heads", "width", "act")}
    | PATCHES
    | {"norm_eps": ("layer_norm_eps", 1e-6), "mlp": ("mlp_ratio", 4.0)},
    needs={"qkv_bias": True, "num_channels": 3, "use_swiglu_ffn": False},
    names=dinov2_names,
    prefix="dinov2.",
    unused=("classifier.", "embeddings.mask_token"),
    fixed={"scaled": True, "registers": 0},
)

DINOV2_REGISTERS = DINOV2._replace(
    fields={**DINOV2.fields, "registers": ("num_register_tokens", 4)},
    prefix="dinov2_with_registers.",
    fixed={"scaled": True, "antialias": True},
)

SWIN_LAYER = {
    "attention.self.query": "attention/query/kernel",
    "attention.self.key": "attention/key/kernel",
    "attention.self.value": "attention/value/kernel",
    "attention.output.dense": "attention/out/kernel",
    "layernorm_before": "norm_attention/scale",
    "layernorm_after": "norm_mlp/scale",
    "intermediate.dense": "Mlp_0/Dense_0/kernel",
    "output.dense": "Mlp_0/Dense_1/kernel",
}


def swin_names(arch: Config) -> dict[str, str]:
    """Swin's; merging is published with the stage before it."""
    modules = {
        "embeddings.patch_embeddings.projection": "patches/kernel",
        "embeddings.norm": "norm_first/scale",
    }
    modules, single = modules | {"layernorm": "norm/scale"}, {}
    for stage, depth in enumerate(arch["depths"]):
        if stage:
            merge = f"encoder.layers.{stage - 1}.downsample"
            modules[f"{merge}.norm"] = f"merge_{stage}/norm/scale"
            single[f"{merge}.reduction.weight"] = f"merge_{stage}/linear/kernel"
        for k in range(depth):
            theirs, ours = f"encoder.layers.{stage}.blocks.{k}", f"layer_{stage}_{k}"
            modules |= {f"{theirs}.{name}": f"{ours}/{path}" for name, path in SWIN_LAYER.items()}
            single[f"{theirs}.attention.self.relative_position_bias_table"] = f"{ours}/attention/biases"
    return _leaves(modules) | single


SWIN = Family(
    fields={
        "depths": ("depths", (2, 2, 6, 2)),
        "heads": ("num_heads", (3, 6, 12, 24)),
        "width": ("embed_dim", 96),
        "mlp_ratio": ("mlp_ratio", 4.0),
        "act": ("hidden_act", "gelu"),
        "norm_eps": ("layer_norm_eps", 1e-5),
        "patch": ("patch_size", 4),
        "window": ("window_size", 7),
    },
    needs={"qkv_bias": True, "num_channels": 3, "use_absolute_embeddings": False},
    names=swin_names,
    prefix="swin.",
    unused=("pooler.", "classifier.", "decoder.", "embeddings.mask_token"),
)

CLIP_LAYER = {
    "self_attn.q_proj": f"{ATTENTION}/query/kernel",
    "self_attn.k_proj": f"{ATTENTION}/key/kernel",
    "self_attn.v_proj": f"{ATTENTION}/value/kernel",
    "self_attn.out_proj": f"{ATTENTION}/out/kernel",
    "layer_norm1": "norm_attention/scale",
    "layer_norm2": "norm_mlp/scale",
    "mlp.fc1": "Mlp_0/Dense_0/kernel",
    "mlp.fc2": "Mlp_0/Dense_1/kernel",
}


def clip_text_names(arch: Config) -> dict[str, str]:
    """CLIP's words'."""
    return _leaves(
        {
            "embeddings.token_embedding": "words/embedding",
            "embeddings.position_embedding": "positions/embedding",
            "final_layer_norm": "norm/scale",
            **_layers("encoder.layers", arch["layers"], CLIP_LAYER),
        }
    )


def clip_image_names(arch: Config) -> dict[str, str]:
    """CLIP's patches'; the first LayerNorm is published with its slip of the pen."""
    modules = {"pre_layrnorm": "norm_first/scale", "post_layernorm": "norm/scale"}
    return {
        "embeddings.class_embedding": "cls",
        "embeddings.patch_embedding.weight": "patches/kernel",
        "embeddings.position_embedding.weight": "positions",
        **_leaves(modules | _layers("encoder.layers", arch["layers"], CLIP_LAYER)),
    }


CLIP_FIELDS = LAYERS | {"act": ("hidden_act", "quick_gelu"), "norm_eps": ("layer_norm_eps", 1e-5)}
CLIP_OTHERS = ("logit_scale", "embeddings.position_ids")

CLIP_TEXT = Family(
    fields=CLIP_FIELDS
    | {
        "width": ("hidden_size", 512),
        "mlp": ("intermediate_size", 2048),
        "heads": ("num_attention_heads", 8),
        "vocab": ("vocab_size", 49408),
        "positions": ("max_position_embeddings", 77),
    },
    needs={},
    names=clip_text_names,
    prefix="text_model.",
    unused=("vision_model.", "visual_projection.", *CLIP_OTHERS),
    section="text_config",
    projection="text_projection.weight",
)

CLIP_IMAGE = Family(
    fields=CLIP_FIELDS | {"patch": ("patch_size", 32), "image_size": ("image_size", 224)},
    needs={"num_channels": 3},
    names=clip_image_names,
    prefix="vision_model.",
    unused=("text_model.", "text_projection.", *CLIP_OTHERS),
    section="vision_config",
    projection="visual_projection.weight",
    fixed={"norm_first": True},
)

FAMILIES = {
    "text": {"bert": BERT, "clip": CLIP_TEXT, "clip_text_model": CLIP_TEXT},
    "image": {
        "vit": VIT,
        "dinov2": DINOV2,
        "dinov2_with_registers": DINOV2_REGISTERS,
        "clip": CLIP_IMAGE,
        "clip_vision_model": CLIP_IMAGE,
        "swin": SWIN,
    },
}
