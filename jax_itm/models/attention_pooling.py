"""Multihead attention pooling: a learnt query attends to the tokens, as in SigLIP's image encoder."""

import flax.linen as nn
import jax.numpy as jnp

from jax_itm.models.layers import Mlp, token_product
from jax_itm.types import Array, Bool, Float


class AttentionPooling(nn.Module):
    """One learnt query attends to the tokens, and a residual MLP follows: `a + MLP(LN(a))`.

    "MAP" (multihead attention pooling) of Zhai et al., "Scaling Vision Transformers", CVPR 2022, with which
    SigLIP's image encoders pool (Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023). The
    output is as wide as a token.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, mask = jnp.ones((2, 3, 8)), jnp.ones((2, 3), bool)
        >>> pooling = AttentionPooling(heads=2, mlp=16)
        >>> pooling.apply(pooling.init(jax.random.key(0), x, mask), x, mask).shape
        (2, 8)

    Attributes:
        heads: of the attention.
        mlp: width of the MLP's hidden layer.
        act: activation of the MLP, one of `layers.ACTIVATIONS`.
        norm_eps: of the LayerNorm.
        dtype: of the computation; the softmax is float32.
    """

    heads: int
    mlp: int
    act: str = "gelu_tanh"
    norm_eps: float = 1e-6
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
        """Pools the true tokens of each item, in float32 at the end."""
        width = x.shape[-1]
        query = self.param("query", nn.initializers.xavier_uniform(), (1, 1, width))
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            force_fp32_for_softmax=True,
            qkv_dot_general=token_product,
            out_dot_general=token_product,
            name="attention",
        )
        queries = jnp.broadcast_to(query, (len(x), 1, width)).astype(x.dtype)
        pooled = attention(queries, x, mask=mask[:, None, None, :])
        normed = nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm")(pooled)
        pooled = pooled + Mlp(self.mlp, width, dtype=self.dtype, act=self.act, name="mlp")(normed)
        return pooled[:, 0].astype(jnp.float32)
