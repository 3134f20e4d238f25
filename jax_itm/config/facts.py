"""What a run learns from its data and encoders when it starts; saved with the config."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_itm.config.load import with_tuples
from jax_itm.errors import UserError
from jax_itm.types import Architecture

NO_ARCHITECTURE = ConfigDict().lock()  # shared by all facts without one
NO_DATA: Mapping[str, str] = MappingProxyType({})


class Facts(NamedTuple):
    """Sizes of the data and of the tokenizer, and the architectures of the pretrained encoders.

    Attributes:
        region_dim: size f of a region's features; 0 if the run reads pixels.
        vocab: how many ids the tokenizer has.
        image_architecture: that of the pretrained image encoder, with its image transform; empty without one.
        text_architecture: that of the pretrained text encoder; empty without one.
        data: what its splits are ("train", "validation"), as `Split.identity` says; empty if it has had none.
    """

    region_dim: int = 0
    vocab: int = 0
    image_architecture: Architecture = NO_ARCHITECTURE
    text_architecture: Architecture = NO_ARCHITECTURE
    data: Mapping[str, str] = NO_DATA

    def architecture(self, side: str) -> Architecture:
        """That of the pretrained encoder of one side, "image" or "text".

        Raises:
            UserError: there is no pretrained encoder on that side, or the run has never been started.
        """
        architecture = {"image": self.image_architecture, "text": self.text_architecture}[side]
        if not architecture:
            raise UserError(
                f"config.{side}.name='pretrained': architecture unknown; it is read when the run starts"
            )
        return architecture

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON can keep them."""
        return self._asdict() | {
            "image_architecture": self.image_architecture.to_dict(),
            "text_architecture": self.text_architecture.to_dict(),
            "data": dict(self.data),
        }


def facts_from_dict(saved: dict[str, Any]) -> Facts:
    """The facts of a saved run.

    Raises:
        UserError: they were saved by another version.
    """
    saved = {"data": {}} | saved  # runs of before this fact was kept: they resume on any data
    if sorted(saved) != sorted(Facts._fields):
        raise UserError("facts: saved by another version of jax_itm")
    return Facts(
        saved["region_dim"],
        saved["vocab"],
        ConfigDict(with_tuples(saved["image_architecture"])).lock(),
        ConfigDict(with_tuples(saved["text_architecture"])).lock(),
        dict(saved["data"]),
    )
