"""Two encoders, optionally a head, a list of weighted loss terms, and a score."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jax_itm import losses
from jax_itm.arrays import Encoded
from jax_itm.config.fields import defaults
from jax_itm.config.loss_fields import LOSSES
from jax_itm.config.rules import nearest
from jax_itm.durations import steps_only
from jax_itm.errors import UserError
from jax_itm.losses import Plan, Sampled, Sampling
from jax_itm.methods.base import Aux, weight_at
from jax_itm.methods.encoder_pair import SIDES, EncodedPair, EncoderPair
from jax_itm.methods.heads import Head
from jax_itm.methods.scores import Score, make_score
from jax_itm.methods.terms import TERMS, TermInputs, TermOutput
from jax_itm.types import Array, Batch, Config, Float, Inputs, Params, PRNGKeyArray, PyTree, Terms


def loss_options(terms: Mapping[str, Mapping[str, Any]]) -> Config:
    """The options of every loss term: their defaults with `terms` on top, {"info_nce": {"weight": 1.0}}.

    Raises:
        UserError: a term or an option that there is not, or a value of another type.
    """
    options: Any = ConfigDict({name: defaults(section) for name, section in LOSSES.items()}).lock()
    for name, values in terms.items():
        if name not in options:
            raise UserError(f"config.losses.{name}: no such loss term{nearest(name, list(options))}")
        for field, value in values.items():
            if field not in options[name]:
                raise UserError(
                    f"config.losses.{name}.{field}: no such field{nearest(field, list(options[name]))}"
                )
            try:
                options[name][field] = value
            except TypeError as error:
                raise UserError(f"config.losses.{name}.{field}={value!r}: {error}") from error
    return options


class DualEncoder:
    """Two encoders whose embeddings meet only in a score: an embedding never depends on its partner.

        loss = sum over terms k of  weight_k(step) * term_k          (docs/methods/contrastive.md, (1))

    Any registered term may be combined with any other; a term of weight 0 is neither computed nor given
    parameters. DIAS, CDDS and the baselines are presets of this list (config/presets.py).

    Args:
        image_encoder: a Linen module of `batch["image"]`, giving `Encoded` or plain embeddings (b, d). If it
            takes `train`, it is told; its collection `batch_stats` is kept.
        text_encoder: the same of `batch["text"]`.
        losses: {term: options over the defaults}, such as {"info_nce": {"weight": 1.0}}.
        head: what stands on both encoders; None for nothing.
        score: "cosine", "maxmean" or "mapped".
        plan: how the similarity matrix is traversed.
        axis: the mesh axis, or axes, that the batch is split over.
        precision: of the encoders' and the head's float32 products: "default" is one bfloat16 pass on TPUs
            and TF32 on GPUs; "high" or "highest", float32.
        micro_batches: exact accumulation: the encoders run in so many parts, the loss sees all pairs.
        to_steps: steps of a duration; by default only "N steps" is understood.
        preset: what results call the method.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> method = DualEncoder(nn.Dense(8), nn.Dense(8), {"info_nce": {"weight": 1.0}})
        >>> batch = {"image": jnp.ones((4, 5)), "text": jnp.ones((4, 6))}
        >>> params = method.init(jax.random.key(0), batch)
        >>> loss, aux = method.loss(params, batch, jax.random.key(1), jnp.zeros((), int))
        >>> sorted(params), sorted(aux.terms)
        (['image', 'loss', 'text'], ['gap', 'info_nce', 'info_nce/scale', 'weighted/info_nce'])
    """

    block_images = 1000
    reasons: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        image_encoder: nn.Module,
        text_encoder: nn.Module,
        losses: Mapping[str, Mapping[str, Any]],
        head: Head | None = None,
        *,
        score: str = "cosine",
        plan: Plan = Plan(),  # noqa: B008
        axis: str | tuple[str, ...] = "data",
        precision: str = "default",
        micro_batches: int = 1,
        to_steps: Callable[[str], int] = steps_only,
        preset: str = "dual encoder",
    ):
        self.encoders = EncoderPair(image_encoder, text_encoder, precision)
        self.options = loss_options(losses)
        self.head = head
        self.scoring: Score = make_score(score, self.options.sampling)
        self.plan = plan
        self.axis = axis
        self.micro_batches = micro_batches
        self.to_steps = to_steps
        self.preset = preset
        self.score_name = self.scoring.name
        self.first_name = self.scoring.first_name
        self.active = [name for name, options in self.options.items() if options.weight]
        if not self.active:
            raise UserError("config.losses: every weight is 0; switch a loss term on")
        needed = [TERMS[name].needs(self.options[name]) for name in self.active]
        self.parametrised = list(dict.fromkeys([*self.active, *filter(None, needed)]))

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Params:
        """Float32 parameters: {"image", "text", "loss", and where there are any "head", "stats"}.

        `stats` is what is estimated and not learnt; the optimiser leaves it alone.
        """
        params: dict[str, Any]
        params, stats = self.encoders.init(rng, batch)
        image, text = (self.encoders.encode(params | {"stats": stats}, side, batch[side]) for side in SIDES)
        if self.head is not None and (head := self.head.init(jax.random.fold_in(rng, 1), image, text)):
            params["head"] = head
        dim = image.embedding.shape[-1]
        params["loss"] = self._of_terms("params", dim)
        if of_losses := self._of_terms("stats", dim):
            stats["losses"] = of_losses
        return params | ({"stats": stats} if stats else {})

    def _of_terms(self, part: str, dim: int) -> dict[str, dict[str, Array]]:
        arrays = {name: getattr(TERMS[name], part)(self.options[name], dim) for name in self.parametrised}
        return {name: own for name, own in arrays.items() if own}

    def project(self, params: Params) -> Params:
        """The parameters after an update, clipped ones within their limits."""
        loss = {name: TERMS[name].project(own, self.options[name]) for name, own in params["loss"].items()}
        return {**params, "loss": loss}

    def _with_head(self, params: Params, side: str, encoded: Encoded, rng: PRNGKeyArray | None) -> Encoded:
        if self.head is None:
            return encoded
        with jax.default_matmul_precision(self.encoders.precision):
            return self.head.apply(params.get("head", {}), side, encoded, rng)

    def _encode_pair(self, params: Params, batch: Batch, rng: PRNGKeyArray) -> EncodedPair:
        encoded = []
        stats = {}
        for side, key in zip(SIDES, jax.random.split(rng), strict=True):
            one, changed = self.encoders.encode_training(params, side, batch[side], key)
            encoded.append(self._with_head(params, side, one, jax.random.fold_in(key, 1)))
            if changed is not None:
                stats[side] = changed
        return EncodedPair(encoded[0], encoded[1], stats)

    def encode_batch(self, params: Params, batch: Batch, rng: PRNGKeyArray) -> EncodedPair:
        """Both sides as in training, micro-batch by micro-batch.

        Only activations are recomputed in the backward pass; the loss is over the whole batch. Averaging the
        losses of micro-batches would be another loss: each pair would meet fewer negatives.
        """
        parts = self.micro_batches
        sides = {side: batch[side] for side in SIDES}
        if parts == 1:
            return self._encode_pair(params, sides, jax.random.fold_in(rng, 0))
        split = lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)  # devices keep their rows
        join = lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

        def encode(inputs: tuple[Array, Batch]) -> tuple[Encoded, Encoded]:
            index, part = inputs
            return self._encode_pair(params, part, jax.random.fold_in(rng, index))[:2]

        encoded = jax.lax.map(jax.checkpoint(encode), (jnp.arange(parts), jax.tree.map(split, sides)))
        stats = {side: s for side, s in params.get("stats", {}).items() if side in SIDES}
        image, text = jax.tree.map(join, encoded)
        return EncodedPair(image, text, stats)

    def weight(self, name: str, step: Array) -> Float[Array, ""] | float:
        """The weight of a term at a step."""
        options = self.options[name]
        return weight_at(options.weight, step, self.to_steps(options.start), self.to_steps(options.ramp))

    def loss(self, params: Params, batch: Batch, rng: PRNGKeyArray, step: Array) -> tuple[Array, Aux]:
        """The weighted sum of the terms over the whole batch."""
        encode_key, terms_key = jax.random.split(rng)
        with jax.named_scope("encoders"):
            encoded = self.encode_batch(params, batch, encode_key)
        with jax.named_scope("losses"):
            outputs = self._outputs(params, encoded, batch.get("image_id"), terms_key, step)
        stats = encoded.stats
        terms: Terms = {}
        total = jnp.zeros((), jnp.float32)
        of_losses = dict(params.get("stats", {}).get("losses", {}))
        for name, output in outputs.items():
            weighted = self.weight(name, step) * output.value
            total = total + weighted
            terms |= {name: output.value, f"weighted/{name}": weighted}
            terms |= {f"{name}/{key}": value for key, value in output.diagnostics.items()}
            if output.stats:
                of_losses[name] = output.stats
        embeddings = jax.lax.stop_gradient((encoded.image.embedding, encoded.text.embedding))
        terms["gap"] = losses.score_gap(*embeddings, axis=self.axis)
        if of_losses:
            stats = {**stats, "losses": of_losses}
        return total, Aux(terms, jax.lax.stop_gradient(stats))

    def _outputs(
        self,
        params: Params,
        encoded: EncodedPair,
        image_ids: Array | None,
        rng: PRNGKeyArray,
        step: Array,
    ) -> dict[str, TermOutput]:
        image, text, _ = encoded
        stats = params.get("stats", {}).get("losses", {})

        @cache
        def sampled() -> Sampled:
            options = self.options.sampling
            v, t = image.tokens, text.tokens
            origin = None
            if image.origin is not None and text.origin is not None:
                origin = image.origin, text.origin
            else:  # no head has made the tokens' columns comparable
                v, t = losses.equal_length(v), losses.equal_length(t)
            return losses.sample_distributions(
                v,
                image.mask,
                t,
                text.mask,
                thresholds=params["loss"]["sampling"]["thresholds"],
                image_ids=image_ids,
                options=Sampling(**{name: options[name] for name in Sampling._fields}),
                key=jax.random.fold_in(rng, 1),
                origin=origin,
                axis=self.axis,
                plan=self.plan,
            )

        def output_of(name: str) -> TermOutput:
            inputs = TermInputs(
                image=image,
                text=text,
                image_ids=image_ids,
                options=self.options[name],
                params=params["loss"].get(name, {}),
                stats=stats.get(name, {}),
                key=rng,
                step=step,
                plan=self.plan,
                axis=self.axis,
                to_steps=self.to_steps,
                sampled=sampled,
            )
            output = TERMS[name].loss(inputs)
            return output if isinstance(output, TermOutput) else TermOutput(output)

        return {name: output_of(name) for name in self.active}

    def components(self, params: Params, side: str, inputs: Inputs) -> Encoded:
        """One side as in evaluation: what the head makes of it, deterministic."""
        return self._with_head(params, side, self.encoders.encode(params, side, inputs), None)

    def encode_image(self, params: Params, image: Inputs) -> PyTree:
        """What `score` needs of images."""
        return self.scoring.encode(params, "image", self.components(params, "image", image))

    def encode_text(self, params: Params, text: Inputs) -> PyTree:
        """What `score` needs of texts."""
        return self.scoring.encode(params, "text", self.components(params, "text", text))

    def score(self, params: Params, images: PyTree, texts: PyTree) -> Float[Array, "i t"]:
        """The score of every image with every text."""
        return self.scoring.all_pairs(images, texts)

    def score_pairs(self, params: Params, images: PyTree, texts: PyTree) -> Float[Array, "k"]:
        """The scores of row k's image with row k's text."""
        return self.scoring.pairs(images, texts)

    def first_score(self, params: Params, images: PyTree, texts: PyTree) -> Float[Array, "i t"]:
        """The fast score, for a first pass over a large gallery."""
        return self.scoring.first_pass(images, texts)
