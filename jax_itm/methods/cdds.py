"""CDDS: constrained decoupling and distribution sampling.

Ma, Fang, Xu, Zhang, "Aligning the True Semantics: Constrained Decoupling and Distribution Sampling for
Cross-Modal Alignment", AAAI 2026, arXiv 2603.05566. No code was released; what the paper leaves open is
INFERRED and said so. Equations (1) to (4) are in `models/unet.py`, (5) to (11) in `distribution_sampling.py`.

    L = alpha_s L_s + alpha_m L_m + alpha_f L_f + (1 - alpha_f) L_x                                   (15)

Two presets: `paper` is (15) alone. `practical`, the default, mixes the identity into S
(`config.sampling.identity=0.5`), because (15) ties the modalities only through S, which is learnt too:
measured, retrieval then stays near chance. That is not in the paper, nor is the optional term `align`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jax_itm import losses
from jax_itm.arrays import Encoded, l2_normalise, mean_pool
from jax_itm.errors import UserError
from jax_itm.losses import distribution_sampling
from jax_itm.losses.decoupling import distance, modality_loss
from jax_itm.losses.distribution_sampling import Moments
from jax_itm.losses.token_similarity import TokenSet, maxmean, maxmean_pairs, token_set
from jax_itm.methods.base import DualEncoder, even_length, register
from jax_itm.models.unet import DualPath
from jax_itm.types import Array, Batch, Float, Inputs, Params, PRNGKeyArray, PyTree, Terms

PARTS = ("modal", "fused", "crossed")  # terms of the decoupled components
SEMANTIC, MODALITY, SAMPLED = range(3)  # of the learnable weights w_s, w_m, w_x
QUICK = 10.0  # the moments are parameters in these units, so that a run's rate moves them soon enough


def cdds_defaults() -> dict[str, Any]:
    """INFERRED weights of (15): alpha_s 1, alpha_m 0.1, alpha_f 0.5; two layers a path, four noises."""
    return {
        "weights": {"sampling": 1.0, "modal": 0.1, "fused": 0.5, "crossed": 0.5, "align": 0.0},
        "decouple": True,  # False: the tokens themselves are the semantic component
        "layers": 2,
        "heads": 8,
        "mlp": 4,  # times the width
        "noises": 4,  # z; 0: none
        "noise_scale": 0.1,  # of E_n(delta), beside tokens of length sqrt(d); INFERRED, the paper states none
        "modal_form": "one_minus",  # | literal
        "score": "maxmean",  # | pooled | mapped
    }


@register("cdds", cdds_defaults)
class Cdds(DualEncoder):
    """Encoders' tokens, decoupled; semantic components are sampled in training and scored afterwards.

    `score` is INFERRED: `maxmean` correlates token sets, `pooled` is the cosine of their means, `mapped` the
    cosine through the S of the columns' moments over the whole run, which the parameters keep.
    """

    def __init__(self, config, vocab: int, loss_steps):
        super().__init__(config, vocab, loss_steps)
        options = self.options
        self.score_name = options.score
        self.first_name = "pooled" if options.score == "maxmean" else options.score
        self.preset = "cdds practical" if config.sampling.identity else "cdds paper"
        for side in ("image", "text"):
            if config[side].pooling != "mean":
                raise UserError(f"config.{side}.pooling={config[side].pooling!r}: cdds pools by 'mean'")
        asked = [name for name in PARTS if options.weights[name]]
        if not options.decouple and asked:
            raise UserError(f"config.method.weights.{asked[0]}: must be 0 with config.method.decouple=False")
        if config.dim % options.heads:
            raise UserError(f"config.method.heads={options.heads}: does not divide config.dim={config.dim}")
        self.unet = DualPath(
            config.dim,
            options.layers,
            options.heads,
            options.mlp,
            options.noises,
            options.noise_scale,
            config.remat,
            jnp.dtype(config.dtype),
        )

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Params:
        """Also {"unet": ..}."""
        unet, rng = jax.random.split(rng)
        params = super().init(rng, batch)
        if self.options.decouple:
            image: Any = self.image.apply({"params": params["image"]}, batch["image"])
            text: Any = self.text.apply({"params": params["text"]}, batch["text"])
            params["unet"] = self.unet.init(unet, image, text)["params"]
        return params

    def loss_params(self) -> dict[str, Array]:
        """Those of sampling; the components' weights; the columns' means and log variances, for `mapped`."""
        weights, params = self.options.weights, {"thresholds": jnp.full((2,), self.config.sampling.alpha)}
        if weights.fused or weights.crossed:
            params["parts"] = jnp.ones((3,))
        return params | {"moments": jnp.zeros((2, 2, self.config.dim))}

    def weights(self) -> dict[str, float]:
        """With the fit of the moments: Adam moves them all the same, and it hardly counts in the clip."""
        return self.options.weights.to_dict() | {"moments": 0.01}

    def encode_pair(self, params: Params, image: Inputs, text: Inputs, rng) -> tuple[Encoded, Encoded]:
        """The encoders' tokens, decoupled, with new noise."""
        keys = jax.random.split(jax.random.fold_in(rng, 1))
        v, t = super().encode_pair(params, image, text, rng)
        new = lambda side, encoded, key: self._decoupled(
            params, side, encoded, train=True, rngs={"dropout": key}
        )
        return new("image", v, keys[0]), new("text", t, keys[1])

    def _decoupled(self, params: Params, side: str, encoded: Encoded, **options: Any) -> Any:
        # Noise has length sqrt(d), and columns of both sides are compared: tokens of any other length are
        # drowned by the one, or have no neighbours in the other (measured).
        encoded = encoded._replace(tokens=even_length(encoded.tokens))
        if self.options.decouple:
            return self.unet.apply({"params": params["unet"]}, encoded, method=side, **options)
        embedding = l2_normalise(mean_pool(encoded.tokens, encoded.mask))
        return encoded._replace(embedding=embedding, origin=encoded.tokens)

    def terms(self, params, image: Encoded, text: Encoded, batch, rng, step) -> Terms:
        """L_s, L_m, L_f, L_x, and `align`: InfoNCE of the pooled semantic components."""
        weights, config = self.options.weights, self.config
        terms: Terms = {}
        both: tuple[Any, Any] = image, text
        if weights.sampling or weights.crossed:
            drawn = self.sampled(params, image, text, batch, rng)
            moments = drawn.moments
            terms |= drawn.terms
        else:  # no sorts and no map where nothing asks for them
            drawn, moments = (
                None,
                [distribution_sampling.column_moments(one.tokens, one.mask) for one in both],
            )
        if weights.modal:
            form = self.options.modal_form
            each = [modality_loss(one.modality, one.mask, form) for one in both]
            terms["modal"] = each[0] + each[1]
        if weights.fused:
            terms["fused"] = self._fit(params["parts"], SEMANTIC, both, [one.tokens for one in both])
        if weights.crossed and drawn:
            terms["crossed"] = self._fit(params["parts"], SAMPLED, both, [drawn.image, drawn.text])
        if weights.align:
            scale = jnp.asarray(1 / config.sampling.temperature)
            pair = image.embedding, text.embedding, batch["image_id"]
            terms["align"] = losses.info_nce(*pair, scale, self.plan)
        found = jnp.stack([jnp.stack([m.mean, jnp.log(m.variance + 1e-6)]) for m in moments])
        terms["moments"] = jnp.mean((QUICK * params["moments"] - jax.lax.stop_gradient(found)) ** 2)
        return terms

    @staticmethod
    def _fit(w: Float[Array, "3"], part: int, both: Any, made: list[Array]) -> Float[Array, ""]:
        """L_f or L_x of both modalities: `|w_m v^m + w v - v|^2`, v what was decoupled."""
        each = [
            distance(w[MODALITY] * one.modality + w[part] * x, one.origin, one.mask)
            for one, x in zip(both, made, strict=True)
        ]
        return each[0] + each[1]

    def components(self, params: Params, side: str, inputs: Inputs) -> Encoded:
        """One side's ("image" or "text") semantic tokens, with what they were made of; no new noise."""
        model = self.image if side == "image" else self.text
        encoded: Any = model.apply({"params": params[side]}, inputs)
        return self._decoupled(params, side, encoded)

    def _encoded(self, params: Params, side: str, inputs: Inputs) -> PyTree:
        found = self.components(params, side, inputs)
        if self.options.score == "maxmean":
            return token_set(found.tokens, found.mask, found.embedding)
        if self.options.score == "pooled":
            return found.embedding
        _, selected = self.mean_selection(params)
        through = mean_pool(found.tokens, found.mask) @ selected[side == "image"].weights.T
        # [own ; the other side's as seen through S]: the score is the mean of both cosines.
        parts = [found.embedding, l2_normalise(through)]
        return jnp.concatenate(parts if side == "image" else parts[::-1], axis=1) / jnp.sqrt(2.0)

    def mean_selection(
        self, params: Params
    ) -> tuple[Array, tuple[distribution_sampling.Selected, distribution_sampling.Selected]]:
        """log S, S_v and S_t of the moments that the parameters keep: those of the run, not of a batch."""
        moments = (Moments(mean, jnp.exp(log)) for mean, log in QUICK * params["loss"]["moments"])
        return self.selection(params, *moments)

    def selection(
        self, params: Params, image: Moments, text: Moments
    ) -> tuple[Array, tuple[distribution_sampling.Selected, distribution_sampling.Selected]]:
        """log S, S_v and S_t of columns with these moments, by the learnt thresholds."""
        log_s = distribution_sampling.related(image, text)
        return log_s, distribution_sampling.select_both(
            log_s, params["loss"]["thresholds"], self.config.sampling
        )

    def encode_image(self, params: Params, image: Inputs) -> PyTree:
        """What `method.score` needs: a token set, or one L2-normalised row an image."""
        return self._encoded(params, "image", image)

    def encode_text(self, params: Params, text: Inputs) -> PyTree:
        """What `method.score` needs: a token set, or one L2-normalised row a caption."""
        return self._encoded(params, "text", text)

    def score(self, params: Params, images: PyTree, texts: PyTree) -> Float[Array, "i t"]:
        """`maxmean` in tiles, or cosines."""
        return maxmean(images, texts) if self.options.score == "maxmean" else images @ texts.T

    def score_pairs(self, params: Params, images: PyTree, texts: PyTree) -> Float[Array, "k"]:
        """The scores of row k's image with row k's text."""
        if self.options.score == "maxmean":
            return maxmean_pairs(images, texts)
        return jnp.sum(images * texts, axis=1)

    def first_score(self, params: Params, images: PyTree, texts: PyTree) -> Float[Array, "i t"]:
        """The fast score, `pooled`, for a first pass over a large gallery."""
        pooled = lambda x: x.pooled if isinstance(x, TokenSet) else x
        return pooled(images) @ pooled(texts).T
