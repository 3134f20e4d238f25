"""A cross-encoder whose intra-modal attentions are aligned with each other (IAIS).

Ren et al., "Learning Relation Alignment for Calibrated Cross-modal Retrieval", ACL 2021, arXiv 2105.13868;
training as in the authors' released code. The maths is in docs/methods/iais.md.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_itm import losses
from jax_itm.arrays import AttentionMaps
from jax_itm.losses.alignment import schedule
from jax_itm.losses.masked_words import masked_lm_terms
from jax_itm.losses.mining import Negatives
from jax_itm.methods.base import Aux, Durations, weight_at
from jax_itm.methods.miner import BY_IMAGE, Miner
from jax_itm.methods.pool_contrast import pool_contrast
from jax_itm.models.token_matcher import TokenMatcher
from jax_itm.models.uniter import Embedded, Matched, Uniter
from jax_itm.types import Array, Batch, Bool, Config, Float, Inputs, Int, Params, PRNGKeyArray, PyTree, Terms


class Anchored(NamedTuple):
    """One pool's anchors of one direction: sums and means of their terms."""

    rank: Float[Array, "*p"]
    alignment: Float[Array, "*p"]
    gap: Float[Array, "*p"]


class CrossEncoder:
    """UNITER, or a matcher on a dual encoder's tokens, and the alignment of a matched pair's attentions.

    The batch is whole *pools*. In a pool, each of the first `anchors` images is scored with all captions
    that are not its own, each of the first captions with all images but its own, without gradient or
    dropout; the hardest are scored again with both. One update costs `2 anchors pool` forward passes and
    `2 anchors (1 + hardest)` forward and backward passes a pool; words and regions are embedded once.
    From random values the hardest teach nothing: until `random_for` negatives are random, and
    `losses.masked_lm` adds UNITER's masked words. `losses.pool_softmax` ranks a pool's pairs by a softmax
    instead, each pair scored once (equation (21)).

        loss = mean over pools of  mean rank_i + mean rank_t + lambda_t (sum L_vision + sum L_language)

    (docs/methods/iais.md, equation (14)). Image anchors align the vision side, text anchors the language
    side, each on its matched pair alone. As released, the alignment is *not* divided by the number of
    anchors, unless `per_update_mean`.

    Args:
        model: the matcher.
        options: the loss terms, `config.losses` of a cross-encoder.
        mining: `config.mining`.
        durations: of the run, in steps.
        precision: of the model's float32 products; attention maps are float32 always.
        micro_batches: parts that a pool's anchors are scored in.
        block_images: images of a block of scores.
        label: the method's name in results.
    """

    score_name = "cross-encoder"
    reasons: Mapping[str, str] = MappingProxyType(
        {
            "attention_alignment": "an attention weight became exactly 0, whose logarithm it takes; lower"
            " optimizer.lr, or set losses.attention_alignment.form='distributed'"
        }
    )

    def __init__(
        self,
        model: Uniter | TokenMatcher,
        options: Config,
        mining: Config,
        durations: Durations,
        *,
        precision: str = "default",
        micro_batches: int = 1,
        block_images: int = 250,
        label: str = "iais",
    ):
        self.model = model
        self.options = options
        self.mining = mining
        self.durations = durations
        self.precision = precision
        self.micro_batches = micro_batches
        self.block_images = block_images
        self.label = label
        match = lambda params, texts, images: self._apply(params, "match", texts, images).score
        self.miner = Miner(match, mining, durations.random)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Params:
        """Float32 parameters."""
        return self.model.init(rng, batch)["params"]

    def project(self, params: Params) -> Params:
        """As they are: none has a limit."""
        return params

    def _apply(self, params: Params, method: str, *inputs: Any, **options: Any) -> Any:
        with jax.default_matmul_precision(self.precision):
            return self.model.apply({"params": params}, *inputs, method=method, **options)

    def _embed(self, params: Params, batch: Batch, **options: Any) -> tuple[Embedded, Embedded]:
        return (
            self._apply(params, "embed_text", batch["text"], **options),
            self._apply(params, "embed_image", batch["image"], **options),
        )

    # -- the loss -----------------------------------------------------------------------------------------

    def loss(self, params: Params, batch: Batch, rng: PRNGKeyArray, step: Array) -> tuple[Array, Aux]:
        """`rank`, `attention_alignment` and `masked_lm`, those that have a weight."""
        options = self.options
        dropout = {"dropout": jax.random.fold_in(rng, 3)}
        texts, images = self._embed(params, batch, train=True, rngs=dropout)
        terms: Terms = {}
        if options.masked_lm.weight:
            terms |= self._masked_words(params, batch["text"], images, jax.random.fold_in(rng, 2))
        if options.pool_softmax.weight:
            terms |= self._contrasted(params, texts, images, batch["image_id"], rng, step)
        elif options.rank.weight or options.attention_alignment.weight:
            terms |= self._ranked(params, texts, images, batch["image_id"], rng, step)
        total = jnp.zeros((), jnp.float32)
        for name in options:
            if name not in terms or not options[name].weight:
                continue
            start, ramp = self.durations.weights.get(name, (0, 0))
            weighted = weight_at(options[name].weight, step, start, ramp) * terms[name]
            total = total + weighted
            terms[f"weighted/{name}"] = weighted
        return total, Aux(terms, {})

    def _masked_words(self, params: Params, text: Inputs, images: Embedded, rng: PRNGKeyArray) -> Terms:
        predict = lambda shown, images, key: self._apply(
            params, "words", shown, images, train=True, rngs={"dropout": key}
        )
        share = self.options.masked_lm.share
        terms = masked_lm_terms(
            predict,
            text,
            images,
            rng,
            share=share,
            vocabulary=self.model.vocab,
            micro_batches=self.micro_batches,
        )
        return {"masked_lm": terms["masked_lm"], "masked_lm/accuracy": terms["masked_lm_accuracy"]}

    def _ranked(
        self,
        params: Params,
        texts: Embedded,
        images: Embedded,
        image_id: Int[Array, "b"],
        rng: PRNGKeyArray,
        step: Array,
    ) -> Terms:
        """`rank`, and the alignment with its schedule's weight in it; its two sides are means a pair."""
        pools = lambda tree: jax.tree.map(lambda x: x.reshape(-1, self.mining.pool, *x.shape[1:]), tree)

        def of_pool(texts: Embedded, images: Embedded, negatives: Negatives, rng: PRNGKeyArray) -> Anchored:
            # A loop over the ways, so that the model is compiled once.
            way = lambda inputs: self._anchored(params, texts, images, *inputs)
            ways: Anchored = jax.lax.map(way, (negatives, jax.random.split(rng), BY_IMAGE))
            return ways

        texts, images, image_id = pools((texts, images, image_id))
        draw_key, rng = jax.random.split(rng)
        negatives = self.miner.negatives(params, texts, images, image_id, draw_key, step)
        by_pool = jax.vmap(of_pool)(texts, images, negatives, jax.random.split(rng, len(image_id)))
        ways = jax.tree.map(lambda x: jnp.mean(x, axis=0), by_pool)  # by image, by text
        vision, language = ways.alignment
        aligned = self._alignment_terms(vision, language, self.mining.anchors, step)
        return {"rank": jnp.sum(ways.rank), **aligned, "gap": jnp.mean(ways.gap)}

    def _contrasted(
        self,
        params: Params,
        texts: Embedded,
        images: Embedded,
        image_id: Int[Array, "b"],
        rng: PRNGKeyArray,
        step: Array,
    ) -> Terms:
        """`pool_softmax` and the alignment of all matched pairs, both sides of each."""
        size = self.mining.pool
        pools = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), (texts, images, image_id))
        match = lambda texts, images, key: self._apply(
            params, "match", texts, images, train=True, rngs={"dropout": key}
        )
        align = lambda *inputs: self._alignment(params, *inputs)
        terms = pool_contrast(match, align, pools, rng, self.micro_batches)
        aligned = self._alignment_terms(terms.pop("vision"), terms.pop("language"), size, step)
        return {**terms, **aligned}

    def _alignment_terms(self, vision: Array, language: Array, pairs: int, step: Array) -> Terms:
        """The alignment with its schedule's weight; of the sums over a pool's pairs of each side."""
        options = self.options.attention_alignment
        weight = schedule(options.schedule, step / self.durations.total)
        aligned = (vision + language) / (pairs if options.per_update_mean else 1)
        return {
            "attention_alignment": weight * aligned,
            "attention_alignment/vision": vision / pairs,
            "attention_alignment/language": language / pairs,
            "attention_alignment/schedule": weight,
        }

    def _anchored(
        self,
        params: Params,
        texts: Embedded,
        images: Embedded,
        negatives: Negatives,
        rng: PRNGKeyArray,
        by_image: Bool[Array, ""],
    ) -> Anchored:
        """Mean rank loss, summed alignment and mean score gap of one pool's anchors."""
        anchor = jnp.arange(self.mining.anchors)[:, None]
        pairs = jnp.concatenate([anchor, negatives.rows], axis=1)  # the matched pair first
        same = jnp.broadcast_to(anchor, pairs.shape)
        of_text, of_image = jnp.where(by_image, pairs, same), jnp.where(by_image, same, pairs)

        def part(inputs: tuple[Array, Array, Bool[Array, "a k"], Array]) -> tuple[Array, ...]:
            of_text, of_image, real, index = inputs
            rows = lambda tree, at: jax.tree.map(lambda x: x[at.ravel()], tree)
            text = rows(texts, of_text)
            image = rows(images, of_image)
            rngs = {"dropout": jax.random.fold_in(rng, index)}
            matched: Matched = self._apply(params, "match", text, image, train=True, rngs=rngs)
            scores = matched.score.reshape(of_text.shape)
            hinges = losses.rank_loss(scores[:, 0], scores[:, 1:], self.options.rank.margin)
            own = slice(None, None, of_text.shape[1])
            inputs_of_maps = matched.last[own], text.mask[own], image.mask[own]
            aligned = jax.lax.cond(
                by_image,
                lambda: self._alignment(params, *inputs_of_maps, True),
                lambda: self._alignment(params, *inputs_of_maps, False),
            )
            chance = jax.nn.sigmoid(jax.lax.stop_gradient(scores))
            gap = jnp.where(real, chance[:, :1] - chance[:, 1:], 0)
            return jnp.sum(jnp.where(real, hinges, 0)), jnp.sum(aligned), jnp.sum(gap), jnp.sum(real)

        parts = self.micro_batches
        split = lambda x: x.reshape(parts, -1, *x.shape[1:])
        inputs = (*map(split, (of_text, of_image, negatives.real)), jnp.arange(parts))
        if parts == 1:
            sums = part(jax.tree.map(lambda x: x[0], inputs))
        else:
            sums = jax.tree.map(jnp.sum, jax.lax.map(jax.checkpoint(part), inputs))
        rank, alignment, gap, count = sums
        count = jnp.maximum(count, 1)
        return Anchored(rank / count, alignment, gap / count)

    def _alignment(
        self, params: Params, last: Array, text: Bool[Array, "a w"], image: Bool[Array, "a r"], by_image: bool
    ) -> Float[Array, "a"]:
        options = self.options.attention_alignment
        if options.form == "none" or not options.weight:
            return jnp.zeros(len(last))
        maps: AttentionMaps = self._apply(params, "maps", last, text, image)
        maps = maps.turned() if by_image else maps
        return losses.attention_alignment(maps, form=options.form, singular_softmax=options.singular_softmax)

    # -- inference ----------------------------------------------------------------------------------------

    def encode_image(self, params: Params, image: Inputs) -> Embedded:
        """Embedded regions."""
        return self._apply(params, "embed_image", image)

    def encode_text(self, params: Params, text: Inputs) -> Inputs:
        """The words as they are: embedding them anew costs less than keeping it."""
        return dict(text)

    def score(self, params: Params, images: Embedded, texts: PyTree) -> Float[Array, "i t"]:
        """Every pair through the whole model: one caption with all images at a time."""
        embedded = self._apply(params, "embed_text", texts)
        count = len(images.mask)

        def one(text: Embedded) -> Array:
            same = jax.tree.map(lambda x: jnp.broadcast_to(x[None], (count, *x.shape)), text)
            return self._apply(params, "match", same, images).score

        return jax.lax.map(one, embedded).T

    def score_pairs(self, params: Params, images: Embedded, texts: PyTree) -> Float[Array, "k"]:
        """The scores of row k's image with row k's text."""
        return self._apply(params, "match", self._apply(params, "embed_text", texts), images).score

    def maps(self, params: Params, batch: Batch) -> AttentionMaps:
        """The attention maps of matched rows, from the language side."""
        text, image = self._embed(params, batch)
        last = self._apply(params, "match", text, image).last
        return self._apply(params, "maps", last, text.mask, image.mask)
