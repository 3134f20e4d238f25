"""IAIS: a cross-encoder whose intra-modal attentions are calibrated against each other.

Ren et al., "Learning Relation Alignment for Calibrated Cross-modal Retrieval", ACL 2021, arXiv
2105.13868; training as in the authors' released code, on UNITER. The alignments: `attention_alignment.py`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from jax_itm.arrays import Maps
from jax_itm.errors import UserError
from jax_itm.losses import attention_alignment, mining
from jax_itm.losses.masked_lm import word_terms
from jax_itm.losses.mining import Negatives
from jax_itm.methods.base import Aux, register, weighted, weighted_terms
from jax_itm.models.uniter import Embedded, Matched, Uniter
from jax_itm.types import Array, Batch, Float, Inputs, Int, Params, PRNGKeyArray, PyTree, Terms


def iais_defaults() -> dict[str, Any]:
    """UNITER base and the released training: 8 anchors each way, 399 candidates, the 31 hardest."""
    return {
        "weights": {"rank": 1.0, "iais": 1.0, "mlm": 0.0},
        "alignment": "singular",  # | distributed | none
        "singular_softmax": True,  # a second softmax, on probabilities, as released
        "schedule": "exp",  # | linear | log: of the alignment's weight over the run
        "per_update_mean": False,  # the alignment as a mean over a pool's anchors; released: their sum
        "margin": 0.2,  # between sigmoids of scores
        "pool": 400,  # matched pairs that lend one another negatives; config.batch_size holds whole pools
        "anchors": 8,  # of a pool, each way
        "hardest": 31,  # negatives of an anchor, which are scored again with gradient
        "draw_for": "0 steps",  # until then negatives are drawn at random: a start without pretraining
        "tile": 400,  # pairs scored at once without gradient
        "masked": 0.15,  # share of the words that the term mlm predicts
        "hidden": 768,
        "layers": 12,
        "heads": 12,
        "dropout": 0.1,
        "spread": 0.02,  # standard deviation of the start values
        "region_mlp": 0,  # width of an MLP before the region projection; 0: none, as in UNITER
        "centred": False,  # locations less their mean; UNITER's are not
    }


def rank_loss(
    positive: Float[Array, "a"], negative: Float[Array, "a k"], margin: float
) -> Float[Array, "a k"]:
    """`[margin + sigmoid(s_neg) - sigmoid(s_pos)]_+` of every anchor and negative."""
    return jax.nn.relu(margin + jax.nn.sigmoid(negative) - jax.nn.sigmoid(positive)[:, None])


@register("iais", iais_defaults)
class Iais:
    """UNITER with mined negatives and the alignment of a matched pair's attentions.

    The batch is whole *pools*. In a pool, each of the first `anchors` images is scored with all captions
    that are not its own, each of the first captions with all images but its own, without gradient or
    dropout; the hardest are scored again with both. One update costs `2 anchors pool` forward passes and
    `2 anchors (1 + negatives)` forward and backward passes a pool; words and regions are embedded once.
    From random values the hardest teach nothing: until `draw_for` negatives are drawn at random, and
    `weights.mlm` adds UNITER's masked words (`masked.py`), which the image must help to tell.

        loss = mean over pools of  mean rank_i + mean rank_t + lambda_t (sum L_vision + sum L_language)

    Image anchors align the vision side, text anchors the language side, each on its matched pair alone.
    As released, the alignment is *not* divided by the number of anchors, unless `per_update_mean`.
    """

    score_name = "cross-encoder"
    reasons: Mapping[str, str] = MappingProxyType(
        {
            "iais": "an attention weight became exactly 0, whose logarithm the alignment takes; lower"
            " optimizer.lr, or take method.alignment='distributed'"
        }
    )

    def __init__(self, config, vocab: int, loss_steps: Callable[[str], int]):
        options = config.method
        if config.batch_size % options.pool:
            raise UserError(
                f"config.batch_size={config.batch_size}: not whole pools of config.method.pool={options.pool}"
            )
        if options.anchors > options.pool or options.hardest >= options.pool:
            raise UserError(
                f"config.method.pool={options.pool}: too small for {options.anchors} anchors with"
                f" {options.hardest} negatives each"
            )
        if options.anchors % config.micro_batches:
            raise UserError(
                f"config.micro_batches={config.micro_batches}: does not divide"
                f" config.method.anchors={options.anchors}"
            )
        self.config, self.options, self.preset = config, options, config.method.name
        self.block_images = config.evaluate.batch_size
        self.steps, self.drawn_steps = max(loss_steps(config.duration), 1), loss_steps(options.draw_for)
        self.model = Uniter(
            vocab,
            options.hidden,
            options.layers,
            options.heads,
            config.data.max_words,
            options.dropout,
            options.spread,
            options.region_mlp,
            options.centred,
            options.weights.mlm > 0,
            config.remat,
            jnp.dtype(config.dtype),
        )

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Params:
        """Float32 parameters."""
        return self.model.init(rng, batch)["params"]

    def _apply(self, params: Params, method: str, *given, **options) -> Any:
        return self.model.apply({"params": params}, *given, method=method, **options)

    def _embed(self, params: Params, batch: Batch) -> tuple[Embedded, Embedded]:
        return (
            self._apply(params, "embed_text", batch["text"]),
            self._apply(params, "embed_image", batch["image"]),
        )

    def mine(
        self, params: Params, texts: Embedded, images: Embedded, image_id: Int[Array, "m"], by_image: bool
    ) -> Negatives:
        """The hardest candidates of each anchor in one pool.

        Anchors are the first images (`by_image`) or captions; candidates are the other side's rows.
        """

        def score(pair):
            text, image = pair[::-1] if by_image else pair
            row = lambda tree, k: jax.tree.map(lambda x: x[k][None], tree)
            matched: Matched = self._apply(params, "match", row(texts, text), row(images, image))
            return matched.score[0]

        options = self.options
        return mining.mined(score, image_id, options.anchors, options.hardest, options.tile)

    def negatives(self, params, texts, images, image_id, rng, step) -> tuple[Negatives, Negatives]:
        """By image and by caption, of all pools: leaves have the pools on axis 0."""
        options = self.options
        params, texts, images = jax.lax.stop_gradient((params, texts, images))

        def drawn():
            draw = lambda key, ids: mining.drawn(key, ids, options.anchors, options.hardest)
            keys = jax.random.split(rng, (2, len(image_id)))
            return jax.vmap(draw)(keys[0], image_id), jax.vmap(draw)(keys[1], image_id)

        def mined():
            way = lambda by_image: jax.vmap(lambda t, v, k: self.mine(params, t, v, k, by_image))
            return way(True)(texts, images, image_id), way(False)(texts, images, image_id)

        return jax.lax.cond(step < self.drawn_steps, drawn, mined) if self.drawn_steps else mined()

    def _anchored(self, params, texts, images, negatives: Negatives, rng, by_image: bool) -> Terms:
        """Mean rank loss and alignment of one pool's anchors, each a scalar, and the scores' gap."""
        options, still = self.options, jax.lax.stop_gradient
        anchor = jnp.arange(options.anchors)[:, None]
        pairs = jnp.concatenate([anchor, negatives.rows], axis=1)  # the matched pair first
        same = jnp.broadcast_to(anchor, pairs.shape)
        of_text, of_image = (pairs, same) if by_image else (same, pairs)

        def part(given):
            of_text, of_image, real, index = given
            rows = lambda tree, at: jax.tree.map(lambda x: x[at.ravel()], tree)
            text, image = rows(texts, of_text), rows(images, of_image)
            rngs = {"dropout": jax.random.fold_in(rng, index)}
            matched: Matched = self._apply(params, "match", text, image, train=True, rngs=rngs)
            scores = matched.score.reshape(of_text.shape)
            ranked = jnp.where(real, rank_loss(scores[:, 0], scores[:, 1:], options.margin), 0)
            own = slice(None, None, of_text.shape[1])
            aligned = self._alignment(params, matched.last[own], text.mask[own], image.mask[own], by_image)
            chance = jax.nn.sigmoid(still(scores))
            gap = jnp.where(real, chance[:, :1] - chance[:, 1:], 0)
            return jnp.sum(ranked), jnp.sum(aligned), jnp.sum(gap), jnp.sum(real)

        parts = self.config.micro_batches
        split = lambda x: x.reshape(parts, -1, *x.shape[1:])
        given = (*map(split, (of_text, of_image, negatives.real)), jnp.arange(parts))
        if parts == 1:
            sums = part(jax.tree.map(lambda x: x[0], given))
        else:
            sums = jax.tree.map(jnp.sum, jax.lax.map(jax.checkpoint(part), given))
        ranked, aligned, gap, count = sums
        count = jnp.maximum(count, 1)
        return {"rank": ranked / count, "aligned": aligned, "gap": gap / count}

    def _alignment(self, params, last, text, image, by_image: bool) -> Float[Array, "a"]:
        options = self.options
        if options.alignment == "none":
            return jnp.zeros(len(last))
        maps: Maps = self._apply(params, "maps", last, text, image)
        maps = maps.turned() if by_image else maps
        if options.alignment == "singular":
            return attention_alignment.singular(maps, options.singular_softmax)
        return attention_alignment.distributed(maps)

    def loss(self, params: Params, batch: Batch, rng: PRNGKeyArray, step: Array) -> tuple[Array, Aux]:
        """`rank`, `iais` and `mlm`, those that have a weight, and what tells how they stand."""
        weights = self.options.weights.to_dict()
        texts, images = self._embed(params, batch)
        terms = {}
        if weights.get("mlm"):
            predict = lambda shown, images, key: self._apply(
                params, "words", shown, images, train=True, rngs={"dropout": key}
            )
            given = predict, batch["text"], images, jax.random.fold_in(rng, 2)
            sizes = {"vocab": self.model.vocab, "parts": self.config.micro_batches}
            terms |= word_terms(*given, share=self.options.masked, **sizes)
        if weights["rank"] or weights["iais"]:
            terms |= self._ranked(params, texts, images, batch["image_id"], rng, step)
        return weighted(terms, weights), Aux(terms | weighted_terms(terms, weights), {})

    def project(self, params: Params) -> Params:
        """The parameters as they are."""
        return params

    def _ranked(self, params, texts, images, image_id, rng: PRNGKeyArray, step: Array) -> Terms:
        """`rank`, and `iais` with its schedule's weight in it; `language` and `vision` are means a pair."""
        options = self.options
        pools = lambda tree: jax.tree.map(lambda x: x.reshape(-1, options.pool, *x.shape[1:]), tree)

        def of_pool(texts, images, negatives, rng):
            i, t = jax.random.split(rng)
            return (
                self._anchored(params, texts, images, negatives[0], i, True),
                self._anchored(params, texts, images, negatives[1], t, False),
            )

        texts, images, image_id = pools((texts, images, image_id))
        draw, rng = jax.random.split(rng)
        negatives = self.negatives(params, texts, images, image_id, draw, step)
        found = jax.vmap(of_pool)(texts, images, negatives, jax.random.split(rng, len(image_id)))
        i, t = jax.tree.map(jnp.mean, found)
        weight = attention_alignment.schedule(options.schedule, step / self.steps)
        share = 1 / options.anchors
        total = (i["aligned"] + t["aligned"]) * (share if options.per_update_mean else 1)
        return {
            "rank": i["rank"] + t["rank"],
            "iais": weight * total,
            "vision": share * i["aligned"],
            "language": share * t["aligned"],
            "lambda": weight,
            "gap": (i["gap"] + t["gap"]) / 2,
        }

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

    def maps(self, params: Params, batch: Batch) -> Maps:
        """The attention maps of matched rows, from the language side."""
        text, image = self._embed(params, batch)
        last = self._apply(params, "match", text, image).last
        return self._apply(params, "maps", last, text.mask, image.mask)
