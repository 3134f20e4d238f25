"""SigLIP as plain Flax modules with big_vision's names, and a golden SigLIP's weights as its parameters."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_itm.arrays import l2_normalise
from tests.helpers.golden_encoders import golden

HEADS = 4
IMAGE = {"width": 40, "depth": 2, "mlp": 56}  # of the golden files
TEXT = {"width": 32, "depth": 2, "mlp": 48}
NAMES = {  # big_vision's -> the transformers library's
    r"MultiHeadDotProductAttention_0/(query|key|value)": lambda m: f"self_attn.{m[1][0]}_proj",
    "MultiHeadDotProductAttention_0/out": "self_attn.out_proj",
    "MlpBlock_0/Dense_0": "mlp.fc1",
    "MlpBlock_0/Dense_1": "mlp.fc2",
    "(Transformer|Encoder_0)/encoderblock_": "encoder.layers.",
    "/LayerNorm_0": ".layer_norm1",
    "/LayerNorm_1": ".layer_norm2",
    "Transformer/encoder_norm": "post_layernorm",
    "Encoder_0/encoder_norm": "final_layer_norm",
    "img/MAPHead_0/self_attn": "img/head.attention",
    "MAPHead_0.layer_norm1": "head.layernorm",
    "MAPHead_0": "head",
    "img/pos_embedding": "img/embeddings.position_embedding/kernel",
    "txt/pos_embedding": "txt/embeddings.position_embedding/kernel",
    "img/embedding/": "img/embeddings.patch_embedding/",
    "Embed_0/embedding": "embeddings.token_embedding/kernel",
    "^img": "vision_model",
    "^txt": "text_model",
    "/(kernel|scale)$": ".weight",
    "/": ".",
}


class MlpBlock(nn.Module):
    mlp: int

    @nn.compact
    def __call__(self, x):
        hidden = nn.gelu(nn.Dense(self.mlp)(x))
        return nn.Dense(x.shape[-1])(hidden)


class Block(nn.Module):
    mlp: int

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS)(y, y)
        return x + MlpBlock(self.mlp)(nn.LayerNorm()(x))


class Encoder(nn.Module):
    depth: int
    mlp: int

    @nn.compact
    def __call__(self, x):
        for k in range(self.depth):
            x = Block(self.mlp, name=f"encoderblock_{k}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class MAPHead(nn.Module):
    mlp: int

    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.normal(), (1, 1, x.shape[-1]))
        x = nn.MultiHeadDotProductAttention(HEADS)(jnp.tile(probe, (len(x), 1, 1)), x)
        return (x + MlpBlock(self.mlp)(nn.LayerNorm()(x)))[:, 0]


class ImageEncoder(nn.Module):
    @nn.compact
    def __call__(self, pixels):
        width, mlp = IMAGE["width"], IMAGE["mlp"]
        x = nn.Conv(width, (8, 8), (8, 8), padding="VALID", name="embedding")(pixels)
        x = x.reshape(len(x), -1, width)
        x = x + self.param("pos_embedding", nn.initializers.normal(), (1, *x.shape[1:]))
        return MAPHead(mlp, name="MAPHead_0")(Encoder(IMAGE["depth"], mlp, name="Transformer")(x))


class TextEncoder(nn.Module):
    words: int

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(self.words, TEXT["width"])(ids)
        x = x + self.param("pos_embedding", nn.initializers.normal(), (1, *x.shape[1:]))
        return nn.Dense(IMAGE["width"], name="head")(Encoder(TEXT["depth"], TEXT["mlp"])(x)[:, -1])


class Siglip(nn.Module):
    """Both encoders: pixels (n, 32, 32, 3) and ids (m, 24) -> embeddings (n, 40) and (m, 40)."""

    words: int

    @nn.compact
    def __call__(self, pixels, ids):
        self.param("t", nn.initializers.zeros, (1,))
        self.param("b", nn.initializers.zeros, (1,))
        images = ImageEncoder(name="img")(pixels)
        return l2_normalise(images), l2_normalise(TextEncoder(self.words, name="txt")(ids))


def linen_siglip(name: str) -> dict[str, np.ndarray]:
    """The weights of the golden `name` by the names, and in the shapes, that Flax gives the modules above."""
    weights = {k.removeprefix("weight/"): x for k, x in golden(name).items() if k.startswith("weight/")}
    for kind in ("weight", "bias"):
        joint = weights.pop(f"vision_model.head.attention.in_proj_{kind}")
        for part, third in zip("qkv", np.split(joint, 3), strict=True):
            weights[f"vision_model.head.attention.{part}_proj.{kind}"] = third
    weights |= {"t": weights.pop("logit_scale"), "b": weights.pop("logit_bias")}
    inputs = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 24), jnp.int32)
    module = Siglip(len(weights["text_model.embeddings.token_embedding.weight"]))
    shapes: Any = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    params = {}
    for path, leaf in flatten_dict(shapes, sep="/").items():
        published = path
        for pattern, replacement in NAMES.items():
            published = re.sub(pattern, replacement, published)
        x = weights.pop(published).astype(np.float32)
        if path.endswith("/kernel"):  # PyTorch's are (out, in) and (out, in, h, w)
            x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
        params[path] = x.reshape(leaf.shape)
    assert not weights  # each is a parameter
    return params


def linen_outputs(params: dict[str, np.ndarray], pixels: np.ndarray, ids: np.ndarray) -> Any:
    """The embeddings of the modules above."""
    variables = {"params": unflatten_dict(params, sep="/")}
    return jax.jit(Siglip(len(params["txt/Embed_0/embedding"])).apply)(variables, pixels, ids)


def stacked(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters with those of all layers in one array, as `nn.scan` has them."""
    layers = [{} for _ in range(IMAGE["depth"])]
    others = {}
    for path, x in params.items():
        k = re.search(r"/encoderblock_(\d)/", path)
        (layers[int(k[1])] if k else others)[re.sub(r"encoderblock_\d", "encoderblock", path)] = x
    return others | {path: np.stack([layer[path] for layer in layers]) for path in layers[0]}
