"""Image-text matching in JAX, as a library and as a trainer.

Sharded losses for any training loop:

    from jax_itm import losses
    loss = losses.info_nce(images, texts, scale=20.0)  # any mesh; never the full similarity matrix

Retrieval metrics, of a matrix or of blocks of it:

    from jax_itm import metrics
    metrics.recall(scores, caption_image)["rsum"]

A run that `python -m jax_itm train` has trained:

    matcher = jax_itm.load("runs/dias_scenes")
    scores = matcher.score(matcher.encode_images(images), matcher.encode_texts(["a dog"]))

Each name is imported when it is first used: `jax_itm.metrics` needs no JAX, `jax_itm.losses` neither Flax nor
TensorFlow, and the command answers a typing error without waiting for any of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jax_itm.version import __version__

if TYPE_CHECKING:
    from jax_itm import data, losses, methods, metrics, models
    from jax_itm.inference.matcher import Matcher, load
    from jax_itm.sharded.tiles import Plan

__all__ = [
    "Matcher",
    "Plan",
    "__version__",
    "data",
    "load",
    "losses",
    "methods",
    "metrics",
    "models",
]

_SOURCES = {
    "Matcher": "jax_itm.inference.matcher",
    "Plan": "jax_itm.sharded.tiles",
    "load": "jax_itm.inference.matcher",
}
_PACKAGES = ("data", "losses", "methods", "metrics", "models")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _SOURCES:
        return getattr(importlib.import_module(_SOURCES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
