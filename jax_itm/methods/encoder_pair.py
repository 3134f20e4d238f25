"""The two encoders of a dual encoder: their parameters, statistics and micro-batches."""

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.arrays import Encoded, l2_normalise
from jax_itm.models.lora import ADAPTERS, Lora, apply_adapters, init_adapters
from jax_itm.types import SIDES, Array, Batch, Float, Params, PRNGKeyArray, PyTree


class EncodedPair(NamedTuple):
    """A batch's encoded images and texts, and the new batch statistics by side."""

    image: Encoded
    text: Encoded
    stats: dict[str, PyTree]


class EncoderPair:
    """Two Linen modules, each of one side of a batch.

    Args:
        image: a module of `batch["image"]`, giving `Encoded` or plain embeddings (b, d).
        text: the same of `batch["text"]`.
        precision: of float32 products, as `jax.default_matmul_precision` takes it.
        lora: the adapters of the sides that have any.
    """

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        precision: str = "default",
        lora: Mapping[str, Lora] = MappingProxyType({}),
    ):
        self.modules = {"image": image, "text": text}
        self.precision = precision
        self.lora = lora

    def init(self, rng: PRNGKeyArray, batch: Batch) -> tuple[dict[str, Params], dict[str, PyTree]]:
        """Parameters by side, and batch statistics of the sides that have any."""
        keys: dict[str, PRNGKeyArray] = dict(zip(SIDES, jax.random.split(rng), strict=True))
        variables = {side: self.modules[side].init(keys[side], batch[side]) for side in SIDES}
        params: dict[str, Any] = {side: variables[side]["params"] for side in SIDES}
        for side, lora in self.lora.items():
            adapters = init_adapters(jax.random.fold_in(keys[side], 1), params[side], lora)
            params[side] = {**params[side], ADAPTERS: adapters}
        stats = {side: v["batch_stats"] for side, v in variables.items() if "batch_stats" in v}
        return params, stats

    def encode(self, params: Params, side: str, inputs: PyTree) -> Encoded:
        """One side as in evaluation."""
        stats = params.get("stats", {}).get(side)
        with jax.default_matmul_precision(self.precision):
            return _as_encoded(self.modules[side].apply(self._variables(params, side, stats), inputs))

    def encode_training(
        self, params: Params, side: str, inputs: PyTree, rng: PRNGKeyArray
    ) -> tuple[Encoded, PyTree | None]:
        """One side as in training -> (encoded, new batch statistics where there are any)."""
        module = self.modules[side]
        stats = params.get("stats", {}).get(side)
        options: dict[str, Any] = {"rngs": {"dropout": rng}}
        if "train" in inspect.signature(type(module).__call__).parameters:
            options["train"] = True
        variables = self._variables(params, side, stats)
        with jax.default_matmul_precision(self.precision):
            if stats is None:
                return _as_encoded(module.apply(variables, inputs, **options)), None
            output: Any = module.apply(variables, inputs, mutable=["batch_stats"], **options)
        return _as_encoded(output[0]), output[1]["batch_stats"]

    def _variables(self, params: Params, side: str, stats: PyTree | None) -> dict[str, PyTree]:
        """What the module takes: with adapters merged into its kernels."""
        merged = {"params": apply_adapters(params[side], self.lora.get(side))}
        return merged if stats is None else {**merged, "batch_stats": stats}


def _as_encoded(output: Any) -> Encoded:
    """The output of an encoder; a plain embedding (b, d) is normalised, and is its own only token."""
    if isinstance(output, Encoded):
        return output
    embedding: Float[Array, "b d"] = l2_normalise(jnp.asarray(output, jnp.float32))
    return Encoded(embedding, embedding[:, None], jnp.ones((len(embedding), 1), bool))
