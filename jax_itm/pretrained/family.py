"""What a family of published weights is, and helpers to write one down."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jax_itm.types import Architecture

EMPTY: Mapping[str, Any] = MappingProxyType({})


class Family(NamedTuple):
    """How one `model_type` calls its fields and weights.

    Attributes:
        names: from an architecture to {published name: path of the parameter in the module}.
        prefix: of all names in files that also hold a head.
        unused: beginnings of names that are not read: heads, and what is not learnt.
        fields: our fields of the module -> (name in config.json, default there).
        needs: what config.json must say if it says it, because the module can do nothing else.
        fixed: fields of the module that follow from the family.
        section: of config.json, if it describes more than one encoder.
        pooling: the one of `config.image.pooling` that is the family's own summary; "" if it has none.
        own: what that pooling needs besides the backbone, {published name: path in a `BackboneEncoder`}.
        cut: paths of tables that may have more rows in the file than in the model, which takes the first.
    """

    names: Callable[[Architecture], dict[str, str]]
    prefix: str
    unused: tuple[str, ...]
    fields: Mapping[str, tuple[str, Any]] = EMPTY
    needs: Mapping[str, Any] = EMPTY
    fixed: Mapping[str, Any] = EMPTY
    section: str = ""
    pooling: str = ""
    own: Mapping[str, str] = EMPTY
    cut: tuple[str, ...] = ()


def leaf_names(modules: Mapping[str, str]) -> dict[str, str]:
    """{published module: our path, whose last part is its weight's} -> {published name: our path}.

    >>> leaf_names({"dense": "mlp/kernel", "words": "words/embedding"})
    {'dense.weight': 'mlp/kernel', 'dense.bias': 'mlp/bias', 'words.weight': 'words/embedding'}
    """
    paths = {}
    for published, path in modules.items():
        paths[f"{published}.weight"] = path
        if not path.endswith("/embedding"):
            paths[f"{published}.bias"] = re.sub(r"[a-z]+$", "bias", path)
    return paths


def layer_names(published: str, count: int, modules: Mapping[str, str]) -> dict[str, str]:
    """The modules of `count` layers: those of layer k stand at `published.k` and at `layer_k`.

    >>> layer_names("encoder", 1, {"dense": "mlp/kernel"})
    {'encoder.0.dense': 'layer_0/mlp/kernel'}
    """
    return {
        f"{published}.{k}.{name}": f"layer_{k}/{path}" for k in range(count) for name, path in modules.items()
    }


LAYER_FIELDS = {
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "width": ("hidden_size", 768),
    "mlp": ("intermediate_size", 3072),
    "act": ("hidden_act", "gelu"),
}
CLIP_LAYER = {
    "self_attn.q_proj": "attention/query/kernel",
    "self_attn.k_proj": "attention/key/kernel",
    "self_attn.v_proj": "attention/value/kernel",
    "self_attn.out_proj": "attention/out/kernel",
    "layer_norm1": "norm_attention/scale",
    "layer_norm2": "norm_mlp/scale",
    "mlp.fc1": "mlp/hidden/kernel",
    "mlp.fc2": "mlp/out/kernel",
}
CLIP_FIELDS = LAYER_FIELDS | {"act": ("hidden_act", "quick_gelu"), "norm_eps": ("layer_norm_eps", 1e-5)}
SIGLIP_FIELDS = LAYER_FIELDS | {
    "act": ("hidden_act", "gelu_pytorch_tanh"),
    "norm_eps": ("layer_norm_eps", 1e-6),
}
CLIP_UNUSED = ("logit_scale", "embeddings.position_ids")
