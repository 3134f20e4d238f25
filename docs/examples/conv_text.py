"""A text encoder of one's own: words and their neighbours, by convolutions."""

import flax.linen as nn

from jax_itm.arrays import Encoded, l2_normalise, mean_pool
from jax_itm.models import register_encoder


class ConvText(nn.Module):
    """Word vectors, residual convolutions over three words, the mean of the true words."""

    dim: int
    vocab: int
    width: int
    layers: int

    @nn.compact
    def __call__(self, text, train: bool = False) -> Encoded:
        """Takes `batch["text"]`: ids (b, w) and mask (b, w)."""
        true = text["mask"][..., None]
        x = nn.Embed(self.vocab, self.width, name="words")(text["ids"])
        for k in range(self.layers):
            # Padding is set to zero before each layer, so that a caption never depends on its batch.
            x = x + nn.gelu(nn.Conv(self.width, (3,), name=f"conv_{k}")(x * true))
        tokens = nn.Dense(self.dim, name="projection")(x)
        return Encoded(l2_normalise(mean_pool(tokens, text["mask"])), tokens, text["mask"])


@register_encoder("text", "conv")
def conv_text(config, facts) -> ConvText:
    """`config.text.name="conv"`; its sizes are fields that other text encoders have, too."""
    return ConvText(config.dim, facts.vocab, config.text.width, config.text.layers)
