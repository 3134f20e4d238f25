"""The loss terms that come with the library, each a thin caller of `jax_itm.losses`."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jax_itm import losses
from jax_itm.arrays import Encoded
from jax_itm.methods.terms import TermInputs, TermOutput, declared_term
from jax_itm.types import Array, Config, Params, Terms

MOMENTS_DECAY = 0.99  # of the average that `score="mapped"` reads


def _scale_params(options: Config, dim: int) -> dict[str, Array]:
    return _clip_scale({"log_scale": jnp.asarray(-math.log(options.temperature), jnp.float32)}, options)


def _clip_scale(params: Params, options: Config) -> Params:
    """CLIP clips the parameter after the update: a clipped product would have no gradient at the limit."""
    if "log_scale" not in params:
        return params
    return {**params, "log_scale": jnp.minimum(params["log_scale"], math.log(options.max_scale))}


def _info_nce_params(options: Config, dim: int) -> dict[str, Array]:
    return _scale_params(options, dim) if options.learn_temperature else {}


@declared_term("info_nce", params=_info_nce_params, project=_clip_scale)
def info_nce(inputs: TermInputs) -> TermOutput:
    """InfoNCE with a learnt, clipped temperature, or a fixed one."""
    if inputs.options.learn_temperature:
        scale = jnp.exp(inputs.params["log_scale"])
    else:
        scale = jnp.asarray(1 / inputs.options.temperature, jnp.float32)
    value = losses.info_nce(
        inputs.image.embedding, inputs.text.embedding, scale=scale, **inputs.matrix_options
    )
    return TermOutput(value, {"scale": scale})


def _sigmoid_params(options: Config, dim: int) -> dict[str, Array]:
    return {**_scale_params(options, dim), "bias": jnp.asarray(options.bias, jnp.float32)}


@declared_term("sigmoid", params=_sigmoid_params, project=_clip_scale)
def sigmoid(inputs: TermInputs) -> TermOutput:
    """SigLIP's loss with a learnt temperature and bias."""
    scale = jnp.exp(inputs.params["log_scale"])
    bias = inputs.params["bias"]
    value = losses.sigmoid(
        inputs.image.embedding, inputs.text.embedding, scale=scale, bias=bias, **inputs.matrix_options
    )
    return TermOutput(value, {"scale": scale, "bias": bias})


@declared_term("triplet")
def triplet(inputs: TermInputs) -> TermOutput:
    """The triplet loss by `negatives`, after `sum_for` with all of them."""
    options = inputs.options
    pair = inputs.image.embedding, inputs.text.embedding
    shared = {"margin": options.margin, **inputs.matrix_options}

    def selected() -> Terms:
        return losses.triplet_terms(
            *pair,
            negatives=options.negatives,
            k=options.k,
            key=inputs.key,
            cutoff=options.cutoff,
            sphere_dim=options.sphere_dim,
            **shared,
        )

    def all_negatives() -> Terms:
        value = losses.triplet(*pair, negatives="sum", **shared)
        return {name: value if name == "triplet" else jnp.zeros_like(x) for name, x in shapes.items()}

    steps = inputs.to_steps(options.sum_for)
    if steps and options.negatives != "sum":
        shapes = jax.eval_shape(selected)
        terms: Any = jax.lax.cond(inputs.step < steps, all_negatives, selected)
    else:
        terms = dict(selected())
    return TermOutput(terms.pop("triplet"), terms)


def _dimension_stats(options: Config, dim: int) -> dict[str, Array]:
    if options.samples != "running":
        return {}
    return {"correlation": jnp.zeros((dim, dim)), "count": jnp.zeros(())}


@declared_term("dimension", stats=_dimension_stats)
def dimension(inputs: TermInputs) -> TermOutput:
    """DIAS's L_dim on pooled embeddings, attended tokens or a running correlation."""
    options = inputs.options
    if options.samples == "attended":
        image = inputs.image
        text = inputs.text
        images, texts, mask = losses.attended_pairs(image.tokens, image.mask, text.tokens, text.mask)
    else:
        images = inputs.image.embedding
        texts = inputs.text.embedding
        mask = None
    correlation = losses.dimension_correlation(images, texts, mask, axis=inputs.axis)
    stats: dict[str, Array] = {}
    if options.samples == "running":
        count = inputs.stats["count"]
        correlation = losses.running_correlation(
            inputs.stats["correlation"], count, correlation, options.decay
        )
        stats = {"correlation": jax.lax.stop_gradient(correlation), "count": count + 1}
    value = losses.dimension_objective(correlation, options.form, options.phi, options.reduce)
    return TermOutput(value, {"diagonal": jnp.mean(jnp.diagonal(correlation))}, stats)


def _spatial_params(options: Config, dim: int) -> dict[str, Array]:
    return {"alpha": jnp.full((2,), options.alpha, jnp.float32)} if options.learn_alpha else {}


@declared_term("spatial", params=_spatial_params)
def spatial(inputs: TermInputs) -> TermOutput:
    """DIAS's L_inter and L_intra in one pass over the matrix."""
    options = inputs.options
    terms = losses.spatial_terms(
        inputs.image.embedding,
        inputs.text.embedding,
        inter=options.inter,
        intra=options.intra,
        alpha=inputs.params.get("alpha", options.alpha),
        select_on=options.select_on,
        mask=options.mask,
        **inputs.matrix_options,
    )
    return TermOutput(terms["spatial"], {name: x for name, x in terms.items() if name != "spatial"})


def _sampling_params(options: Config, dim: int) -> dict[str, Array]:
    return {"thresholds": jnp.full((2,), options.alpha, jnp.float32)}


def _sampling_stats(options: Config, dim: int) -> dict[str, Array]:
    return {"moments": jnp.zeros((2, 2, dim)), "count": jnp.zeros(())}


@declared_term("sampling", params=_sampling_params, stats=_sampling_stats)
def sampling(inputs: TermInputs) -> TermOutput:
    """CDDS's L_s, and the average of the columns' moments over the run, which `score="mapped"` reads."""
    sampled = inputs.sampled()
    moments = jnp.stack([jnp.stack([m.mean, jnp.log(m.variance + 1e-6)]) for m in sampled.moments])
    count = inputs.stats["count"]
    decay = jnp.minimum(MOMENTS_DECAY, count / (count + 1.0))  # a plain mean at first
    average = decay * inputs.stats["moments"] + (1 - decay) * jax.lax.stop_gradient(moments)
    diagnostics = {name: x for name, x in sampled.terms.items() if name != "sampling"}
    return TermOutput(sampled.terms["sampling"], diagnostics, {"moments": average, "count": count + 1})


def _components(encoded: Encoded) -> losses.Components:
    """The head's components of one side; the rules of the config ask for the head."""
    return losses.Components(encoded.tokens, encoded.modality, encoded.origin, encoded.mask)  # type: ignore[arg-type]


def _sampling_if_crossed(options: Config) -> str:
    return "sampling" if options.crossed else ""


def _decoupling_params(options: Config, dim: int) -> dict[str, Array]:
    return {"parts": jnp.ones((3,))} if options.fused or options.crossed else {}


@declared_term("decoupling", params=_decoupling_params, uses_params_of=_sampling_if_crossed)
def decoupling(inputs: TermInputs) -> TermOutput:
    """CDDS's L_m, L_f and L_x on the head's components."""
    options = inputs.options
    sampled = inputs.sampled() if options.crossed else None
    terms = losses.decoupling_terms(
        _components(inputs.image),
        _components(inputs.text),
        weights=inputs.params.get("parts", jnp.ones((3,))),
        sampled=(sampled.image, sampled.text) if sampled else None,
        modality=options.modality,
        fused=options.fused,
        crossed=options.crossed,
        modality_form=options.modality_form,
        axis=inputs.axis,
    )
    return TermOutput(terms["decoupling"], {name: x for name, x in terms.items() if name != "decoupling"})
