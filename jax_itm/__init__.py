"""Image-text matching in JAX: DIAS, CDDS, IAIS and contrastive baselines, with exact protocols.

import jax_itm
matcher = jax_itm.load("runs/dias_scenes")
"""

from typing import TYPE_CHECKING

from jax_itm.version import __version__

if TYPE_CHECKING:
    from jax_itm.inference.matcher import Matcher, load

__all__ = ["Matcher", "__version__", "load"]


def __getattr__(name: str):
    # Late, so that the command answers a typo without waiting for JAX.
    if name in ("load", "Matcher"):
        from jax_itm.inference import matcher

        return getattr(matcher, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
