"""What a method is, and what all dual encoders share."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jax_itm import losses
from jax_itm.arrays import Encoded, Maps, l2_normalise
from jax_itm.durations import steps_of
from jax_itm.losses import distribution_sampling
from jax_itm.methods.encoders import encoder
from jax_itm.sharded.tiles import Plan
from jax_itm.types import Array, Batch, Float, Inputs, Params, PRNGKeyArray, PyTree, Terms


class Aux(NamedTuple):
    """What a loss tells beside its value.

    Attributes:
        terms: the loss terms as they are, `weighted/NAME` as they were summed, and diagnostics.
        stats: the new `params["stats"]`, estimated rather than learnt, such as batch normalisation's; {} for
            none.
    """

    terms: Terms
    stats: PyTree


@runtime_checkable
class HasMaps(Protocol):
    """A method with attention among the words and regions of a pair."""

    def maps(self, params: Params, batch: Batch) -> Maps:
        """The attention maps of matched rows, from the language side."""
        ...


@runtime_checkable
class Method(Protocol):
    """All that the trainer, the evaluator and the Matcher know of a method.

    One that can re-rank also has `score_pairs(params, images, texts) -> (k,)`; one whose `score` is slow
    may have `first_score`, of the same form, for a first pass, and its `first_name`.
    """

    preset: str  # what a result's protocol calls the method with its settings
    score_name: str  # what a result's protocol calls the scores
    block_images: int  # height of a block of scores
    reasons: Mapping[str, str]  # why a term may become infinite, and what to do

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Params:
        """Float32 parameters for inputs shaped like `batch`."""
        ...

    def loss(self, params: Params, batch: Batch, rng: PRNGKeyArray, step: Array) -> tuple[Array, Aux]:
        """The weighted sum of the loss terms, and what else there is to tell."""
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


REGISTRY: dict[str, Callable[..., Method]] = {}
DEFAULTS: dict[str, Callable[[], dict[str, Any]]] = {}


def register(name: str, defaults: Callable[[], dict[str, Any]]) -> Callable[[Any], Any]:
    """Makes a method known under `config.method.name`, with the default options of its section."""

    def keep(method):
        REGISTRY[name] = method
        DEFAULTS[name] = defaults
        return method

    return keep


def weighted(terms: Terms, weights: Mapping[str, float]) -> Float[Array, ""]:
    """The sum of `weights[name] * terms[name]`; terms without a weight are diagnostics."""
    return jnp.sum(jnp.stack([weights[name] * terms[name] for name in weights if weights[name]]))


def weighted_terms(terms: Terms, weights: Mapping[str, float]) -> Terms:
    """The terms that have a weight, times it, as `weighted/NAME`."""
    return {f"weighted/{name}": weights[name] * terms[name] for name in weights if name in terms}


def even_length(tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Tokens of length sqrt(d), so that columns of both sides can be compared. INFERRED, not in the paper.

    Encoders' own scales differ: without this, every row of S was empty, and noise drowned the tokens.
    """
    return l2_normalise(tokens) * jnp.sqrt(float(tokens.shape[-1]))


class DualEncoder:
    """Two encoders whose embeddings meet only in a cosine: an embedding never sees its partner.

    `loss_steps` turns a duration of the config ("1 epochs") into steps. Subclasses give `terms` and,
    where the loss itself has parameters, `loss_params`.
    """

    score_name = "cosine"
    block_images = 1000
    reasons: Mapping[str, str] = MappingProxyType({})

    def __init__(self, config, vocab: int, loss_steps: Callable[[str], int]):
        self.config = config
        self.options = config.method
        self.preset = config.method.name
        self.loss_steps = loss_steps
        self.plan = Plan(**config.similarity)
        self.image, self.text = encoder(config, "image"), encoder(config, "text", vocab)

    def loss_params(self) -> dict[str, Array]:
        """The parameters of the loss itself, such as a temperature."""
        return {}

    def weights(self) -> dict[str, float]:
        """The weight of every term that the loss sums."""
        return self.options.weights.to_dict()

    def sampled(self, params: Mapping[str, Array], image: Encoded, text: Encoded, batch: Batch, rng):
        """Distribution sampling on the batch's tokens, with CDDS's L_s (`config.sampling`)."""
        key, options = jax.random.fold_in(rng, 1), self.config.sampling
        return distribution_sampling.sampled(
            image, text, params["thresholds"], batch["image_id"], key, options, self.plan
        )

    def terms(
        self,
        params: Mapping[str, Array],
        image: Encoded,
        text: Encoded,
        batch: Batch,
        rng: PRNGKeyArray,
        step: Array,
    ) -> Terms:
        """The named loss terms, unweighted; `params` are those of `loss_params`."""
        raise NotImplementedError

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Params:
        """Float32 parameters: {"image": .., "text": .., "loss": ..}."""
        image, text = jax.random.split(rng)
        thresholds = {}
        if self.options.weights.get("sampling"):
            thresholds["thresholds"] = jnp.full((2,), self.config.sampling.alpha)
        return {
            "image": self.image.init(image, batch["image"])["params"],
            "text": self.text.init(text, batch["text"])["params"],
            "loss": self.loss_params() | thresholds,
        }

    def encode_pair(
        self, params: Params, image: Inputs, text: Inputs, rng: PRNGKeyArray
    ) -> tuple[Encoded, Encoded]:
        """Both encoders, as in training."""
        keys = jax.random.split(rng)
        apply = lambda model, side, inputs, key: model.apply(
            {"params": params[side]}, inputs, train=True, rngs={"dropout": key}
        )
        return apply(self.image, "image", image, keys[0]), apply(self.text, "text", text, keys[1])

    def loss(self, params: Params, batch: Batch, rng: PRNGKeyArray, step: Array) -> tuple[Array, Aux]:
        """Encodes micro-batch by micro-batch, then takes one loss over the whole batch.

        Averaging the losses of micro-batches would be another loss: each pair would meet fewer
        negatives. Only the encoders' activations are recomputed in the backward pass.
        """
        (encode_rng, terms_rng), weights = jax.random.split(rng), self.weights()

        def encode(inputs) -> tuple[Any, Any]:  # Encoded, which apply() does not tell
            index, image, text = inputs
            return self.encode_pair(params, image, text, jax.random.fold_in(encode_rng, index))

        parts = self.config.micro_batches
        if parts == 1:
            image, text = encode((0, batch["image"], batch["text"]))
        else:
            split = lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)
            join = lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
            inputs = (jnp.arange(parts), *jax.tree.map(split, (batch["image"], batch["text"])))
            image, text = jax.tree.map(join, jax.lax.map(jax.checkpoint(encode), inputs))
        terms = self.terms(params["loss"], image, text, batch, terms_rng, step)
        if weights.get("sampling") and "sampling" not in terms:  # CDDS makes more of it, itself
            even = lambda one: one._replace(tokens=even_length(one.tokens))
            terms |= self.sampled(params["loss"], even(image), even(text), batch, terms_rng).terms
        diagnostics = {"gap": losses.gap(*jax.lax.stop_gradient((image.embedding, text.embedding)))}
        terms |= weighted_terms(terms, self.options.weights.to_dict())
        return weighted(terms, weights), Aux(terms | diagnostics, {})

    def project(self, params: Params) -> Params:
        """The parameters as they are."""
        return params

    def encode_image(self, params: Params, image: Inputs) -> Float[Array, "i d"]:
        """L2-normalised float32 embeddings."""
        encoded: Any = self.image.apply({"params": params["image"]}, image)
        return encoded.embedding

    def encode_text(self, params: Params, text: Inputs) -> Float[Array, "t d"]:
        """L2-normalised float32 embeddings."""
        encoded: Any = self.text.apply({"params": params["text"]}, text)
        return encoded.embedding

    def score(
        self, params: Params, images: Float[Array, "i d"], texts: Float[Array, "t d"]
    ) -> Float[Array, "i t"]:
        """Cosines."""
        del params
        return images @ texts.T


def build(config, vocab: int, epoch_examples: int = 1) -> Method:
    """The method that `config.method` describes, for a vocabulary of `vocab` ids.

    `epoch_examples` turns durations in epochs into steps; only training needs it.
    """
    steps = lambda duration: steps_of(duration, config.batch_size, epoch_examples)
    return REGISTRY[config.method.name](config, vocab, steps)
