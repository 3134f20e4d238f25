"""Heads of a dual encoder: they turn its encoders' tokens into new tokens, and these into one vector."""

from typing import Any, Protocol, runtime_checkable

import flax.linen as nn

from jax_itm.arrays import Encoded, l2_normalise, mean_pool
from jax_itm.losses import equal_length
from jax_itm.types import Params, PRNGKeyArray


@runtime_checkable
class Head(Protocol):
    """A head: it makes new tokens of each side's tokens, and never sees both sides of a pair."""

    def init(self, rng: PRNGKeyArray, image: Encoded, text: Encoded) -> Params:
        """Its parameters; {} for none."""
        ...

    def apply(self, params: Params, side: str, encoded: Encoded, rng: PRNGKeyArray | None) -> Encoded:
        """One side ("image" or "text"); with `rng` as in training, else deterministic."""
        ...


class TokensHead:
    """Tokens of equal length, and their mean: CDDS without its decoupling."""

    def init(self, rng: PRNGKeyArray, image: Encoded, text: Encoded) -> Params:
        """It has none."""
        return {}

    def apply(self, params: Params, side: str, encoded: Encoded, rng: PRNGKeyArray | None) -> Encoded:
        """The tokens at length sqrt(d), kept as `origin` too."""
        tokens = equal_length(encoded.tokens)
        embedding = l2_normalise(mean_pool(tokens, encoded.mask))
        return encoded._replace(tokens=tokens, embedding=embedding, origin=tokens)


class UnetHead:
    """CDDS's dual-path UNet: a semantic and a modality component of each token.

    Args:
        module: a `models.DualPath`, with one method a side.
    """

    def __init__(self, module: nn.Module):
        self.module = module

    def init(self, rng: PRNGKeyArray, image: Encoded, text: Encoded) -> Params:
        """The UNets' parameters."""
        even = [one._replace(tokens=equal_length(one.tokens)) for one in (image, text)]
        return self.module.init(rng, *even)["params"]

    def apply(self, params: Params, side: str, encoded: Encoded, rng: PRNGKeyArray | None) -> Encoded:
        """Tokens are the semantic component, `modality` the other, `origin` what was decoupled."""
        even = encoded._replace(tokens=equal_length(encoded.tokens))
        options: dict[str, Any] = {} if rng is None else {"train": True, "rngs": {"dropout": rng}}
        decoupled: Any = self.module.apply({"params": params}, even, method=side, **options)
        return decoupled
