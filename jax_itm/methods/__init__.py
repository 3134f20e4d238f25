"""The methods. Importing this package registers all of them."""

from jax_itm.methods import cdds, contrastive, dias, iais
from jax_itm.methods.base import DEFAULTS, REGISTRY, Method, build
from jax_itm.methods.encoders import example_batch

__all__ = ["DEFAULTS", "REGISTRY", "Method", "build", "cdds", "contrastive", "dias", "example_batch", "iais"]
