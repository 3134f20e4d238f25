"""Two encoders, optionally a head, a list of weighted loss terms, and a score."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm import losses
from jax_itm.arrays import Encoded
from jax_itm.durations import steps_only
from jax_itm.errors import ArgumentError, UserError
from jax_itm.losses import Plan
from jax_itm.methods.base import Aux, weight_at
from jax_itm.methods.encoder_pair import EncodedPair, EncoderPair
from jax_itm.methods.heads import Head
from jax_itm.methods.sampling import sampled_once
from jax_itm.methods.scores import Score, make_score
from jax_itm.methods.terms import TERMS, InitialArrays, Term, TermInputs, TermOutput, loss_options
from jax_itm.models.lora import Lora
from jax_itm.sharded.collectives import Axis
from jax_itm.types import SIDES, Array, Batch, Float, Params, PRNGKeyArray, PyTree, Terms


class DualEncoder:
    """Two encoders whose embeddings meet only in a score: an embedding never depends on its partner.

        loss = sum over terms k of  weight_k(step) * term_k          (docs/methods/contrastive.md, (1))

    Any registered term may be combined with any other; a term of weight 0 is neither computed nor given
    parameters. DIAS, CDDS and the baselines are presets of this list (config/presets.py).

    Args:
        image_encoder: a Linen module of `batch["image"]`, giving `Encoded` or plain embeddings (b, d).
            Called with `train=True` in training if it accepts it; its collection `batch_stats` is kept.
        text_encoder: the same of `batch["text"]`.
        losses: {term: options over the defaults}, such as {"info_nce": {"weight": 1.0}}.
        head: makes new tokens of those of both encoders; None for no head.
        score: "cosine", "maxmean" or "mapped".
        plan: how the similarity matrix is traversed.
        axis: the mesh axis, or axes, that the batch is split over.
        precision: of the encoders' and the head's float32 products: "default" is one bfloat16 pass on TPUs
            and TF32 on GPUs; "high" or "highest", float32.
        micro_batches: exact accumulation: the encoders run in so many parts, the loss sees all pairs. Not for
            encoders with batch statistics, which would be of a part.
        to_steps: converts a duration to steps; by default only "N steps" is understood.
        label: the method's name in results.

    Raises:
        UserError: an unknown term, option or score, or no term has a weight.

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
        axis: Axis = "data",
        precision: str = "default",
        micro_batches: int = 1,
        to_steps: Callable[[str], int] = steps_only,
        label: str = "dual encoder",
        lora: Mapping[str, Lora] = MappingProxyType({}),
    ):
        self.encoders = EncoderPair(image_encoder, text_encoder, precision, lora)
        self.options = loss_options(losses)
        self.head = head
        self.scoring: Score = make_score(score, self.options.sampling)
        self.plan = plan
        self.axis = axis
        self.micro_batches = micro_batches
        self.to_steps = to_steps
        self.label = label
        self.score_name = self.scoring.name
        self.first_name = self.scoring.first_name
        self.active = [name for name, options in self.options.items() if options.weight]
        if not self.active:
            raise UserError("config.losses: every weight is 0; switch a loss term on")
        others = [TERMS[name].uses_params_of(self.options[name]) for name in self.active]
        self.parametrised = list(dict.fromkeys([*self.active, *filter(None, others)]))

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Params:
        """Float32 parameters: {"image", "text", "loss", and where there are any "head", "stats"}.

        `stats` is what is estimated and not learnt; the optimiser leaves it alone.
        """
        params: dict[str, Any]
        params, stats = self.encoders.init(rng, batch)
        # The head and `dim` need encoded shapes.
        image, text = (self.encoders.encode(params | {"stats": stats}, side, batch[side]) for side in SIDES)
        if self.head is not None and (head := self.head.init(jax.random.fold_in(rng, 1), image, text)):
            params["head"] = head
        dim = image.embedding.shape[-1]
        params["loss"] = self._initial(lambda term: term.params, dim)
        if loss_stats := self._initial(lambda term: term.stats, dim):
            stats["losses"] = loss_stats
        return params | ({"stats": stats} if stats else {})

    def _initial(self, part: Callable[[Term], InitialArrays], dim: int) -> dict[str, dict[str, Array]]:
        """The `params` or the `stats` of all terms that have any."""
        arrays = {name: part(TERMS[name])(self.options[name], dim) for name in self.parametrised}
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
        losses of micro-batches would be another loss: each pair would have fewer negatives.

        Raises:
            ArgumentError: there are several micro-batches, and an encoder has batch statistics.
        """
        parts = self.micro_batches
        sides = {side: batch[side] for side in SIDES}
        if parts == 1:
            return self._encode_pair(params, sides, jax.random.fold_in(rng, 0))  # so it equals micro-batch 0
        if with_stats := [side for side in SIDES if side in params.get("stats", {})]:
            raise ArgumentError(
                f"micro_batches={parts}: the {with_stats[0]} encoder has batch statistics, which would be of"
                " a part of the batch; use micro_batches=1"
            )
        split = lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)  # devices keep their rows
        join = lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

        def encode(inputs: tuple[Array, Batch]) -> tuple[Encoded, Encoded]:
            index, part = inputs
            return self._encode_pair(params, part, jax.random.fold_in(rng, index))[:2]

        encoded = jax.lax.map(jax.checkpoint(encode), (jnp.arange(parts), jax.tree.map(split, sides)))
        image, text = jax.tree.map(join, encoded)
        return EncodedPair(image, text, {})

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
        terms: Terms = {}
        total = jnp.zeros((), jnp.float32)
        loss_stats = dict(params.get("stats", {}).get("losses", {}))
        for name, output in outputs.items():
            weighted = self.weight(name, step) * output.value
            total = total + weighted
            terms |= {name: output.value, f"weighted/{name}": weighted}
            terms |= {f"{name}/{key}": value for key, value in output.diagnostics.items()}
            if output.stats:
                loss_stats[name] = output.stats
        embeddings = jax.lax.stop_gradient((encoded.image.embedding, encoded.text.embedding))
        terms["gap"] = losses.score_gap(*embeddings, axis=self.axis)
        stats = {**encoded.stats, "losses": loss_stats} if loss_stats else encoded.stats
        return total, Aux(terms, jax.lax.stop_gradient(stats))

    def _outputs(
        self,
        params: Params,
        encoded: EncodedPair,
        image_ids: Array | None,
        rng: PRNGKeyArray,
        step: Array,
    ) -> dict[str, TermOutput]:
        stats = params.get("stats", {}).get("losses", {})
        traversal = {"axis": self.axis, "plan": self.plan}
        sampled = sampled_once(encoded, image_ids, self.options.sampling, params["loss"], rng, **traversal)

        def output_of(name: str) -> TermOutput:
            inputs = TermInputs(
                image=encoded.image,
                text=encoded.text,
                image_ids=image_ids,
                options=self.options[name],
                params=params["loss"].get(name, {}),
                stats=stats.get(name, {}),
                key=rng,
                step=step,
                to_steps=self.to_steps,
                sampled=sampled,
                **traversal,
            )
            output = TERMS[name].function(inputs)
            return output if isinstance(output, TermOutput) else TermOutput(output)

        return {name: output_of(name) for name in self.active}

    def encode(self, params: Params, side: str, inputs: PyTree) -> Encoded:
        """One side ("image" or "text") as in evaluation: deterministic, with the head."""
        return self._with_head(params, side, self.encoders.encode(params, side, inputs), None)

    def encode_image(self, params: Params, image: PyTree) -> PyTree:
        """What `score` needs of images."""
        return self.scoring.encode(params, "image", self.encode(params, "image", image))

    def encode_text(self, params: Params, text: PyTree) -> PyTree:
        """What `score` needs of texts."""
        return self.scoring.encode(params, "text", self.encode(params, "text", text))

    def score(self, params: Params, images: PyTree, texts: PyTree) -> Float[Array, "i t"]:
        """The score of every image with every text."""
        return self.scoring.all_pairs(images, texts)

    def score_pairs(self, params: Params, images: PyTree, texts: PyTree) -> Float[Array, "k"]:
        """The scores of row k's image with row k's text."""
        return self.scoring.pairs(images, texts)

    def first_score(self, params: Params, images: PyTree, texts: PyTree) -> Float[Array, "i t"]:
        """The fast score, for a first pass over a large gallery."""
        return self.scoring.first_pass(images, texts)
