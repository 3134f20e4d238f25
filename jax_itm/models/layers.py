"""Layers that several encoders share. They compute in `dtype` and keep float32 parameters."""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jax_itm.platforms import FULL, is_cpu
from jax_itm.types import Array, Bool, Float

Initializer = nn.initializers.Initializer


def gelu(x: Array) -> Array:
    """The exact GELU, `x/2 (1 + erf(x / sqrt 2))`.

    In float32 as it is written, as PyTorch has it: CPUs take twice as long for the erfc of Flax.
    Shorter types need the digits that erfc keeps where the sum cancels.
    """
    if x.dtype != jnp.float32:
        return nn.gelu(x, approximate=False)
    return 0.5 * x * (1 + lax.erf(math.sqrt(0.5) * x))


ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": gelu,
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # CLIP's
}
BATCH_NORM_MOMENTUM = 0.9  # of the running statistics: PyTorch's default, which VSE-infinity and HREM use
BATCH_NORM_EPS = 1e-5


def token_product(
    x: Array,
    kernel: Array,
    dimension_numbers: lax.DotDimensionNumbers,
    precision: lax.PrecisionLike = None,
    preferred_element_type: Any = None,
) -> Array:
    """`lax.dot_general` of the last axes of tokens with the first of a kernel: a layer's product.

    On CPUs as a product of two matrices. Of arrays with more axes XLA first transposes what the backward pass
    multiplies, which takes up to half as long as the products.
    """
    options = {"precision": precision, "preferred_element_type": preferred_element_type}
    if not is_cpu():
        return lax.dot_general(x, kernel, dimension_numbers, **options)
    (_, kernel_axes), _ = dimension_numbers
    count = len(kernel_axes)
    matrix = kernel.reshape(math.prod(kernel.shape[:count]), -1)
    rows = x.reshape(-1, len(matrix))
    product = lax.dot_general(rows, matrix, (((1,), (0,)), ((), ())), **options)
    return product.reshape(*x.shape[: x.ndim - count], *kernel.shape[count:])


Dense = partial(nn.Dense, dot_general=token_product)


class Tokens(NamedTuple):
    """What a backbone returns: the features of its tokens, and which of them are real.

    Attributes:
        features: in the backbone's compute type.
        mask: false on padding and on tokens that were dropped in training.
    """

    features: Float[Array, "b n f"]
    mask: Bool[Array, "b n"]


def drop_tokens(module: nn.Module, mask: Bool[Array, "b n"], rate: float) -> Bool[Array, "b n"]:
    """Hides each token with probability `rate` (training only), but never all tokens of an item."""
    if rate == 0:
        return mask
    kept = mask & jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, mask.shape)
    return jnp.where(jnp.any(kept, axis=1, keepdims=True), kept, mask)


def drop_features(module: nn.Module, x: Float[Array, "b n f"], rate: float) -> Float[Array, "b n f"]:
    """Dropout (training only) of the same features in all tokens of an item.

    If each token lost other features, pooling would average the loss away.
    """
    if rate == 0:
        return x
    kept = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, (x.shape[0], 1, x.shape[2]))
    return jnp.where(kept, x / (1 - rate), 0)


class Mlp(nn.Module):
    """Linear, an activation, linear; optionally with batch normalisation before the activation.

    `norm="batch"` normalises each hidden unit by its mean and variance over the true tokens of the whole
    batch, as VSE-infinity and HREM do. Under `jit` with a batch that is sharded over Auto axes, these are
    statistics of the *global* batch. Training (`train=True`) updates their running averages in the collection
    `batch_stats`, so that `apply` needs `mutable=["batch_stats"]`; evaluation uses the averages.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.ones((2, 3, 8))
        >>> mlp = Mlp(hidden=4, out=6)
        >>> mlp.apply(mlp.init(jax.random.key(0), x), x).shape
        (2, 3, 6)

    Attributes:
        hidden: width of the hidden layer.
        out: width of the output.
        dtype: of the computation.
        act: one of `ACTIVATIONS`.
        kernel_init: of the first kernel.
        out_kernel_init: of the second kernel.
        norm: "none" or "batch".
    """

    hidden: int
    out: int
    dtype: jnp.dtype = jnp.dtype("float32")
    act: str = "relu"
    kernel_init: Initializer = nn.linear.default_kernel_init
    out_kernel_init: Initializer = nn.linear.default_kernel_init
    norm: str = "none"

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b f"], mask: Bool[Array, "*b"] | None = None, train: bool = False
    ) -> Float[Array, "*b out"]:
        """Applies the layers to the last axis; `mask` says which rows count in batch normalisation."""
        x = Dense(self.hidden, dtype=self.dtype, kernel_init=self.kernel_init, name="hidden")(x)
        if self.norm == "batch":
            norm = nn.BatchNorm(
                use_running_average=not train,
                momentum=BATCH_NORM_MOMENTUM,
                epsilon=BATCH_NORM_EPS,
                dtype=self.dtype,
                use_fast_variance=False,  # E[x^2] - E[x]^2 loses the digits of units with a large mean
                name="batch_norm",
            )
            x = norm(x, mask=None if mask is None else mask[..., None])
        x = ACTIVATIONS[self.act](x)
        return Dense(self.out, dtype=self.dtype, kernel_init=self.out_kernel_init, name="out")(x)


class ProjectionHead(nn.Module):
    """From a token's features to the shared space: `Linear(f, d)`, plus `MLP(f, hidden, d)` if it has one.

    VSE-infinity's image side, and what stands on a pretrained backbone (Chen et al., "Learning the Best
    Pooling Strategy for Visual Semantic Embedding", CVPR 2021). In training it first drops features.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, mask = jnp.ones((2, 3, 8)), jnp.ones((2, 3), bool)
        >>> head = ProjectionHead(dim=4, hidden=2)
        >>> head.apply(head.init(jax.random.key(0), x, mask), x, mask).shape
        (2, 3, 4)

    Attributes:
        dim: of the shared space.
        hidden: width of the MLP; 0 for none.
        feature_dropout: fraction of the features dropped in training, the same for all tokens of an item.
        norm: of the MLP, "none" or "batch".
        use_bias: of the linear layer; CLIP's own projection has none.
        dtype: of the computation.
    """

    dim: int
    hidden: int = 0
    feature_dropout: float = 0.0
    norm: str = "none"
    use_bias: bool = True
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n f"], mask: Bool[Array, "b n"], train: bool = False
    ) -> Float[Array, "b n dim"]:
        """Float32 tokens."""
        if train:
            x = drop_features(self, x, self.feature_dropout)
        tokens = Dense(self.dim, use_bias=self.use_bias, dtype=self.dtype, name="linear")(x)
        if self.hidden:
            mlp = Mlp(self.hidden, self.dim, dtype=self.dtype, norm=self.norm, name="mlp")
            tokens = tokens + mlp(x, mask, train)
        return tokens.astype(jnp.float32)


class TransformerLayer(nn.Module):
    """A transformer layer: pre-norm as in ViT (`post_norm=False`) or post-norm as in BERT.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, mask = jnp.ones((2, 5, 8)), jnp.ones((2, 5), bool)
        >>> layer = TransformerLayer(heads=2, mlp=16)
        >>> layer.apply(layer.init(jax.random.key(0), x, mask, False), x, mask, False).shape
        (2, 5, 8)

    Attributes:
        heads: of the attention.
        mlp: width of the MLP's hidden layer.
        dropout: of what each part adds.
        attention_dropout: of the attention weights.
        post_norm: whether LayerNorm follows each part instead of preceding it.
        norm_eps: of the LayerNorms.
        dtype: of the computation; the softmax is float32.
        act: one of `ACTIVATIONS`.
        causal: whether a position attends to no later one (CLIP's text encoder).
        layer_scale: whether what a part adds is multiplied by a learnt vector (Touvron et al., "Going deeper
            with Image Transformers", 2021; DINOv2). Pre-norm only.
        zero_init_residual: whether both parts start by adding nothing, so that a pre-norm layer starts as
            the identity.
        kernel_init: of all other kernels.
    """

    heads: int
    mlp: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    post_norm: bool = False
    norm_eps: float = 1e-6
    dtype: jnp.dtype = jnp.dtype("float32")
    act: str = "gelu_tanh"
    causal: bool = False
    layer_scale: bool = False
    zero_init_residual: bool = False
    kernel_init: Initializer = nn.linear.default_kernel_init

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], train: bool
    ) -> Float[Array, "b n d"]:
        """Self-attention over the true positions, then the MLP, each with its residual."""
        norm = lambda name: nn.LayerNorm(self.norm_eps, dtype=self.dtype, name=name)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        out_init = nn.initializers.zeros if self.zero_init_residual else self.kernel_init
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            dropout_rate=self.attention_dropout,
            broadcast_dropout=False,
            deterministic=not train,
            force_fp32_for_softmax=True,
            kernel_init=self.kernel_init,
            out_kernel_init=out_init,
            qkv_dot_general=token_product,
            out_dot_general=token_product,
            name="attention",
        )
        mlp = Mlp(
            self.mlp,
            x.shape[-1],
            dtype=self.dtype,
            act=self.act,
            kernel_init=self.kernel_init,
            out_kernel_init=out_init,
            name="mlp",
        )
        visible = mask[:, None, None, :]
        if self.causal:
            visible = visible & jnp.tril(jnp.ones((x.shape[1],) * 2, bool))
        if self.post_norm:
            x = norm("norm_attention")(x + drop(attention(x, x, mask=visible)))
            return norm("norm_mlp")(x + drop(mlp(x)))
        normed = norm("norm_attention")(x)
        x = x + self._scale("scale_attention", drop(attention(normed, normed, mask=visible)))
        return x + self._scale("scale_mlp", drop(mlp(norm("norm_mlp")(x))))

    def _scale(self, name: str, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        if not self.layer_scale:
            return x
        return x * self.param(name, nn.initializers.ones, x.shape[-1:]).astype(self.dtype)

    def queries_and_keys(
        self, x: Float[Array, "b n d"]
    ) -> tuple[Float[Array, "b n heads size"], Float[Array, "b n heads size"]]:
        """The queries and keys that the layer's attention makes of its input, in float32 at least."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if not self.post_norm:
            norm = nn.LayerNorm(self.norm_eps, parent=None)
            x = jnp.asarray(norm.apply({"params": self.variables["params"]["norm_attention"]}, x))
        attention = self.variables["params"]["attention"]
        project = lambda part: jnp.einsum("bnd,das->bnas", x, part["kernel"], precision=FULL) + part["bias"]
        return project(attention["query"]), project(attention["key"])


def maybe_remat(layer: type[nn.Module], remat: bool, static_argnums: tuple[int, ...] = (3,)) -> Any:
    """`layer` itself, or with `remat` one whose backward pass computes its activations again.

    `static_argnums` are the arguments of its call that are no arrays; `train` of a `TransformerLayer`.
    """
    return nn.remat(layer, static_argnums=static_argnums) if remat else layer
