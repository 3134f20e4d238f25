"""Towers as Hugging Face's libraries save them: config.json described, and every weight's place.

`FAMILIES` says of each `model_type` what its config.json calls our fields, and `names` which of its weights
is which parameter of the tower. PyTorch's kernels are (out, in) and (out, in, h, w), Flax's (in, out) and
(h, w, in, out).
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from jax_itm.data.weights import listed
from jax_itm.types import Config, NamedTuple, UserError

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}


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
    },
}


def described(side: str, said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config.json as the `arch` of a config: the tower's fields, and its `kind`.

    Args:
        side: "image" or "text".
        said: what the config.json says.
        where: the file, for errors.

    Raises:
        UserError: there is no such tower here, or it has a part that the tower here has not.
    """
    kind = said.get("model_type")
    if kind not in FAMILIES[side]:
        known = ", ".join(FAMILIES[side])
        raise UserError(f"{where}: model_type {kind!r} is no {side} tower here; there are {known}")
    family = FAMILIES[side][kind]
    said = said.get(family.section, said)
    for name, value in family.needs.items():
        if said.get(name, value) != value:
            raise UserError(f"{where}: has {name} {said[name]!r}, the tower here needs {value!r}")
    arch = {name: said.get(theirs, default) for name, (theirs, default) in family.fields.items()}
    for name, (theirs, default) in family.fields.items():
        if not isinstance(arch[name], (int, float) if isinstance(default, float) else type(default)):
            raise UserError(f"{where}: has {theirs} {arch[name]!r}, not as {default!r}")
    if arch["width"] % arch["heads"]:
        raise UserError(
            f"{where}: hidden_size {arch['width']} is not whole heads of num_attention_heads {arch['heads']}"
        )
    if arch["act"] not in ACTIVATIONS:
        raise UserError(f"{where}: has hidden_act {arch['act']!r}; known are {', '.join(ACTIVATIONS)}")
    if family.fields.get("mlp", ("",))[0] == "mlp_ratio":
        arch["mlp"] = int(arch["mlp"] * arch["width"])
    return {"kind": kind, **arch, "act": ACTIVATIONS[arch["act"]], **family.fixed}


def values(
    side: str,
    arch: Config,
    state: Mapping[str, np.ndarray],
    like: Mapping[str, Any],
    where: str,
    projected: bool = False,
) -> dict[str, np.ndarray]:
    """An encoder's parameters from published weights: {path: float32 array}, every one exactly once.

    Args:
        side: "image" or "text".
        arch: what `described` gave.
        state: the weights by their published names.
        like: the encoder's abstract parameters by path.
        where: the file, for errors.
        projected: whether CLIP's own projection is asked for, beside the tower.

    Raises:
        UserError: names the weights that are missing, left over, of another shape, or not finite.
    """
    family = FAMILIES[side][arch["kind"]]
    paths = {theirs: f"tower/{ours}" for theirs, ours in family.names(arch).items()}
    unused = family.unused
    if projected and not family.projection:
        raise UserError(f"config.{side}.pooling='clip': {where} has no projection of its own")
    if projected:
        paths[family.projection] = "project/kernel"
    elif family.projection:
        unused += (family.projection,)
    bare = {name.removeprefix(family.prefix): value for name, value in state.items()}
    bare = {name: value for name, value in bare.items() if not name.startswith(unused)}
    parts = []
    if missing := paths.keys() - bare.keys():
        parts.append(f"lacks {listed(missing)}")
    if strange := bare.keys() - paths.keys():
        parts.append(f"has {listed(strange)}, which the tower has not")
    if parts:
        raise UserError(f"{where}: {'; '.join(parts)}")
    wrong, found = [], {}
    for name, path in paths.items():
        value, shape = bare[name], like[path].shape
        wanted = published_shape(path, shape)
        if _bare(value.shape) != _bare(wanted):
            why = " (config.dim)" if path == "project/kernel" else ""
            wrong.append(f"{name} is {value.shape}, not {wanted}{why}")
        elif value.dtype.kind not in "fV" or not np.isfinite(value.astype(np.float32)).all():
            wrong.append(f"{name} holds other than finite real numbers")
        else:
            found[path] = _turned(path, np.asarray(value, np.float32)).reshape(shape)
    if wrong:
        raise UserError(f"{where}: {listed(wrong)}")
    return found


def published_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the weights of a parameter of `shape` are published in."""
    if path.endswith("/out/kernel"):  # (heads, size, d)
        return shape[2], shape[0] * shape[1]
    if path.endswith("/kernel"):  # (in, out), (d, heads, size) or a convolution's
        return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else (int(np.prod(shape[1:])), shape[0])
    return (int(np.prod(shape)),) if path.endswith("/bias") else shape


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the ones before: a class token is published as (1, 1, d) or as (d,)."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _turned(path: str, value: np.ndarray) -> np.ndarray:
    if not path.endswith("/kernel"):
        return value
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
