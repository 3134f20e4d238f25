"""The interface of a method for the trainer, the evaluation and the Matcher."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp

from jax_itm.arrays import AttentionMaps
from jax_itm.types import Array, Batch, Float, Inputs, Params, PRNGKeyArray, PyTree, Terms


class Aux(NamedTuple):
    """What a loss returns in addition to its value.

    Attributes:
        terms: the loss terms as they are, `weighted/NAME` as they were summed, and diagnostics.
        stats: the new `params["stats"]`, estimated rather than learnt, such as batch normalisation's; {} for
            none.
    """

    terms: Terms
    stats: PyTree


class Durations(NamedTuple):
    """Steps of a run.

    Attributes:
        total: of the run, for the schedule of the alignment's weight.
        random: in which negatives are random instead of mined.
        weights: term -> (start, ramp) of its weight.
    """

    total: int
    random: int
    weights: Mapping[str, tuple[int, int]] = MappingProxyType({})


@runtime_checkable
class Method(Protocol):
    """A model with its loss. `DualEncoder` and `CrossEncoder` are the two kinds.

    Attributes:
        label: the method's name in results, with its settings: "dias - spatial".
        score_name: the name of its scores in results.
        block_images: height of a block of scores.
        reasons: why a term may become infinite, and what to do about it, by the term's name.
    """

    label: str
    score_name: str
    block_images: int
    reasons: Mapping[str, str]

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Params:
        """Float32 parameters for inputs shaped like `batch`."""
        ...

    def loss(self, params: Params, batch: Batch, rng: PRNGKeyArray, step: Array) -> tuple[Array, Aux]:
        """The weighted sum of the loss terms, with each of them, diagnostics and new estimates."""
        ...

    def project(self, params: Params) -> Params:
        """The parameters after an update, those with a limit brought back to it."""
        ...

    def encode_image(self, params: Params, image: Inputs) -> PyTree:
        """What `score` needs of images; every leaf has the images on axis 0."""
        ...

    def encode_text(self, params: Params, text: Inputs) -> PyTree:
        """What `score` needs of texts; every leaf has the texts on axis 0."""
        ...

    def score(self, params: Params, images: PyTree, texts: PyTree) -> Float[Array, "i t"]:
        """The score of every image with every text: higher is better."""
        ...


@runtime_checkable
class PairScorer(Protocol):
    """A method that scores single pairs, and so can re-rank another's candidates."""

    def score_pairs(self, params: Params, images: PyTree, texts: PyTree) -> Float[Array, "k"]:
        """The scores of row k's image with row k's text."""
        ...


@runtime_checkable
class FirstScorer(Protocol):
    """A method with a fast score for a first pass over a large gallery.

    Attributes:
        first_name: its name in results.
    """

    first_name: str

    def first_score(self, params: Params, images: PyTree, texts: PyTree) -> Float[Array, "i t"]:
        """The fast score of every image with every text."""
        ...


@runtime_checkable
class HasMaps(Protocol):
    """A method with attention among the words and regions of a pair."""

    def maps(self, params: Params, batch: Batch) -> AttentionMaps:
        """The attention maps of matched rows, from the language side."""
        ...


def weight_at(weight: float, step: Array, start: int, ramp: int) -> Float[Array, ""] | float:
    """The weight of a term at a step: 0 before `start`, then rising linearly over `ramp` steps.

    docs/methods/contrastive.md, equation (2).
    """
    if not start and not ramp:
        return float(weight)
    risen = (step + 1 - start) / ramp if ramp else step >= start
    return weight * jnp.clip(jnp.asarray(risen, jnp.float32), 0, 1)
