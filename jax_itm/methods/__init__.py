"""Models with their losses: a dual encoder with any loss terms, and a cross-encoder."""

from jax_itm.methods import dual_terms  # registers the library's own terms
from jax_itm.methods.base import Aux, FirstScorer, HasMaps, Method, PairScorer
from jax_itm.methods.build import build, merge_adapters
from jax_itm.methods.cross_encoder import CrossEncoder
from jax_itm.methods.dual_encoder import DualEncoder
from jax_itm.methods.example import example_batch
from jax_itm.methods.heads import Head, TokensHead, UnetHead
from jax_itm.methods.terms import TermInputs, TermOutput, loss_term

__all__ = [
    "Aux",
    "CrossEncoder",
    "DualEncoder",
    "FirstScorer",
    "HasMaps",
    "Head",
    "Method",
    "PairScorer",
    "TermInputs",
    "TermOutput",
    "TokensHead",
    "UnetHead",
    "build",
    "dual_terms",
    "example_batch",
    "loss_term",
    "merge_adapters",
]
