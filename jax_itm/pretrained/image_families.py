"""The families of image encoders: ViT, DINOv2, Swin, CLIP and SigLIP."""

from collections.abc import Mapping

from jax_itm.pretrained.family import (
    CLIP_FIELDS,
    CLIP_LAYER,
    CLIP_UNUSED,
    LAYER_FIELDS,
    SIGLIP_FIELDS,
    Family,
    layer_names,
    leaf_names,
)
from jax_itm.types import Architecture

VIT_ATTENTION = {
    "attention.attention.query": "attention/query/kernel",
    "attention.attention.key": "attention/key/kernel",
    "attention.attention.value": "attention/value/kernel",
    "attention.output.dense": "attention/out/kernel",
}
VIT_LAYER = VIT_ATTENTION | {
    "layernorm_before": "norm_attention/scale",
    "layernorm_after": "norm_mlp/scale",
    "intermediate.dense": "mlp/hidden/kernel",
    "output.dense": "mlp/out/kernel",
}
DINOV2_LAYER = VIT_ATTENTION | {
    "norm1": "norm_attention/scale",
    "norm2": "norm_mlp/scale",
    "mlp.fc1": "mlp/hidden/kernel",
    "mlp.fc2": "mlp/out/kernel",
}
DINOV2_SCALES = {"layer_scale1.lambda1": "scale_attention", "layer_scale2.lambda1": "scale_mlp"}


def vit_names(arch: Architecture, layer: Mapping[str, str] = VIT_LAYER) -> dict[str, str]:
    """ViT's."""
    modules = {"embeddings.patch_embeddings.projection": "patches/kernel", "layernorm": "norm/scale"}
    return {
        "embeddings.cls_token": "cls",
        "embeddings.position_embeddings": "positions",
        **leaf_names(modules | layer_names("encoder.layer", arch["layers"], layer)),
    }


def dinov2_names(arch: Architecture) -> dict[str, str]:
    """DINOv2's, with registers or without."""
    registers = {"embeddings.register_tokens": "registers"} if arch["registers"] else {}
    scales = layer_names("encoder.layer", arch["layers"], DINOV2_SCALES)
    return vit_names(arch, DINOV2_LAYER) | scales | registers


PATCH_FIELDS = {"patch": ("patch_size", 16), "image_size": ("image_size", 224)}

VIT = Family(
    names=vit_names,
    prefix="vit.",
    unused=("pooler.", "classifier.", "decoder.", "embeddings.mask_token"),
    fields=LAYER_FIELDS | PATCH_FIELDS | {"norm_eps": ("layer_norm_eps", 1e-12)},
    needs={"qkv_bias": True, "num_channels": 3},
    fixed={"class_token": True},
)

DINOV2 = Family(
    names=dinov2_names,
    prefix="dinov2.",
    unused=("classifier.", "embeddings.mask_token"),
    fields={name: LAYER_FIELDS[name] for name in ("layers", "heads", "width", "act")}
    | PATCH_FIELDS
    | {"norm_eps": ("layer_norm_eps", 1e-6), "mlp": ("mlp_ratio", 4.0)},
    needs={"qkv_bias": True, "num_channels": 3, "use_swiglu_ffn": False},
    fixed={"class_token": True, "layer_scale": True, "registers": 0},
)

DINOV2_REGISTERS = DINOV2._replace(
    prefix="dinov2_with_registers.",
    fields={**DINOV2.fields, "registers": ("num_register_tokens", 4)},
    fixed={"class_token": True, "layer_scale": True, "antialias": True},
)

SWIN_LAYER = {
    "attention.self.query": "attention/query/kernel",
    "attention.self.key": "attention/key/kernel",
    "attention.self.value": "attention/value/kernel",
    "attention.output.dense": "attention/out/kernel",
    "layernorm_before": "norm_attention/scale",
    "layernorm_after": "norm_mlp/scale",
    "intermediate.dense": "mlp/hidden/kernel",
    "output.dense": "mlp/out/kernel",
}


def swin_names(arch: Architecture) -> dict[str, str]:
    """Swin's; merging is published with the stage before it."""
    modules = {
        "embeddings.patch_embeddings.projection": "patches/kernel",
        "embeddings.norm": "norm_first/scale",
        "layernorm": "norm/scale",
    }
    arrays = {}
    for stage, depth in enumerate(arch["depths"]):
        if stage:
            merge = f"encoder.layers.{stage - 1}.downsample"
            modules[f"{merge}.norm"] = f"merge_{stage}/norm/scale"
            arrays[f"{merge}.reduction.weight"] = f"merge_{stage}/linear/kernel"
        for k in range(depth):
            published = f"encoder.layers.{stage}.blocks.{k}"
            path = f"layer_{stage}_{k}"
            modules |= {f"{published}.{name}": f"{path}/{part}" for name, part in SWIN_LAYER.items()}
            arrays[f"{published}.attention.self.relative_position_bias_table"] = f"{path}/attention/biases"
    return leaf_names(modules) | arrays


SWIN = Family(
    names=swin_names,
    prefix="swin.",
    unused=("pooler.", "classifier.", "decoder.", "embeddings.mask_token"),
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
)


def clip_image_names(arch: Architecture) -> dict[str, str]:
    """CLIP's image encoder's; the first LayerNorm's name is misspelt in the published weights."""
    modules = {"pre_layrnorm": "norm_first/scale", "post_layernorm": "norm/scale"}
    return {
        "embeddings.class_embedding": "cls",
        "embeddings.patch_embedding.weight": "patches/kernel",
        "embeddings.position_embedding.weight": "positions",
        **leaf_names(modules | layer_names("encoder.layers", arch["layers"], CLIP_LAYER)),
    }


CLIP_IMAGE = Family(
    names=clip_image_names,
    prefix="vision_model.",
    unused=("text_model.", "text_projection.", *CLIP_UNUSED),
    fields=CLIP_FIELDS | {"patch": ("patch_size", 32), "image_size": ("image_size", 224)},
    needs={"num_channels": 3},
    fixed={"class_token": True, "norm_first": True},
    section="vision_config",
    pooling="clip",
    own={"visual_projection.weight": "projection/linear/kernel"},
)


def siglip_image_names(arch: Architecture) -> dict[str, str]:
    """SigLIP's image encoder's, without its attention pooling."""
    modules = {"embeddings.patch_embedding": "patches/kernel", "post_layernorm": "norm/scale"}
    return {
        "embeddings.position_embedding.weight": "positions",
        **leaf_names(modules | layer_names("encoder.layers", arch["layers"], CLIP_LAYER)),
    }


# in_proj_weight and in_proj_bias are read as q_proj, k_proj and v_proj (mapper.py).
SIGLIP_POOLING = {
    "head.attention.q_proj": "attention_pool/attention/query/kernel",
    "head.attention.k_proj": "attention_pool/attention/key/kernel",
    "head.attention.v_proj": "attention_pool/attention/value/kernel",
    "head.attention.out_proj": "attention_pool/attention/out/kernel",
    "head.layernorm": "attention_pool/norm/scale",
    "head.mlp.fc1": "attention_pool/mlp/hidden/kernel",
    "head.mlp.fc2": "attention_pool/mlp/out/kernel",
}

SIGLIP_IMAGE = Family(
    names=siglip_image_names,
    prefix="vision_model.",
    unused=("text_model.", "logit_bias", *CLIP_UNUSED),
    fields=SIGLIP_FIELDS | PATCH_FIELDS,
    needs={"num_channels": 3},
    section="vision_config",
    pooling="siglip",
    own={"head.probe": "attention_pool/query", **leaf_names(SIGLIP_POOLING)},
)
