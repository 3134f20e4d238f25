"""What a run finds out when it starts, beside what its config tells it."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_itm.errors import UserError
from jax_itm.types import Config


class Facts(NamedTuple):
    """Sizes and architectures that data, tokenizer and pretrained encoders have; saved beside the config.

    Attributes:
        region_dim: size f of a region's features; 0 if the run reads pixels.
        vocab: how many ids the tokenizer has.
        image: the pretrained image encoder's architecture and image transform; empty if there is none.
        text: the pretrained text encoder's architecture; empty if there is none.
    """

    region_dim: int = 0
    vocab: int = 0
    image: Config = ConfigDict()
    text: Config = ConfigDict()

    def architecture(self, side: str) -> Config:
        """That of the pretrained encoder of one side, "image" or "text".

        Raises:
            UserError: the run has none, or was not started.
        """
        architecture = {"image": self.image, "text": self.text}[side]
        if not architecture:
            raise UserError(f"config.{side}.name='pretrained': starting a run reads its architecture")
        return architecture

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON can keep them."""
        return self._asdict() | {"image": self.image.to_dict(), "text": self.text.to_dict()}


def facts_from_dict(saved: dict[str, Any]) -> Facts:
    """The facts of a saved run.

    Raises:
        UserError: they are not of this version.
    """
    if sorted(saved) != sorted(Facts._fields):
        raise UserError("facts: saved by another version of jax_itm")
    architectures = {side: ConfigDict(saved[side]) for side in ("image", "text")}
    return Facts(saved["region_dim"], saved["vocab"], **architectures)
