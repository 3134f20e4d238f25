"""Loss terms of a dual encoder, by name; and how to register one's own.

A term is a function of `TermInputs`. It is named, weighted and configured by `config.losses.NAME`:

    @loss_term("uniformity", {"t": Field(2.0, "sharpness")}, help="spread over the sphere")
    def uniformity(inputs):
        images = inputs.image.embedding
        return jnp.log(jnp.mean(jnp.exp(-inputs.options.t * pairwise_squared_distance(images))))

The inputs are those of the *global* batch: under `jit` plain array functions of them are global too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from jax_itm.arrays import Encoded
from jax_itm.config.fields import Section
from jax_itm.config.loss_fields import register_loss
from jax_itm.losses import Plan, Sampled
from jax_itm.types import Array, Config, Float, Int, Params, PRNGKeyArray, PyTree, Terms


@dataclass(frozen=True)
class TermInputs:
    """What a term sees of one update.

    Attributes:
        image: the encoded images, (b, d) embeddings and (b, r, d) tokens.
        text: the encoded captions; row k is a caption of image row k.
        image_ids: equal numbers mark captions of one image, never negatives of each other; None: all differ.
        options: the term's section of the config, `config.losses.NAME`.
        params: its learnt parameters.
        stats: what it estimates from step to step.
        key: the random key of this step, which all terms share: fold a number of your own in.
        step: completed updates.
        plan: how the similarity matrix is traversed.
        axis: the mesh axis, or axes, that the batch is split over.
        to_steps: steps of a duration such as "1 epochs".
        sampled: distribution sampling of this batch, made once for all terms that need it.
    """

    image: Encoded
    text: Encoded
    image_ids: Int[Array, "b"] | None
    options: Config
    params: Mapping[str, Array]
    stats: Mapping[str, Array]
    key: PRNGKeyArray
    step: Array
    plan: Plan
    axis: str | tuple[str, ...]
    to_steps: Callable[[str], int]
    sampled: Callable[[], Sampled]

    @property
    def sharding(self) -> dict[str, Any]:
        """The keyword arguments that every loss over the similarity matrix takes."""
        return {"image_ids": self.image_ids, "axis": self.axis, "plan": self.plan}


class TermOutput(NamedTuple):
    """What a term gives.

    Attributes:
        value: the term, unweighted.
        diagnostics: scalars to log as NAME/KEY; they carry no gradient.
        stats: the new `stats`.
    """

    value: Float[Array, ""]
    diagnostics: Terms = MappingProxyType({})  # type: ignore[assignment]
    stats: PyTree = MappingProxyType({})


def _no_arrays(options: Config, dim: int) -> dict[str, Array]:
    return {}


def _unlimited(params: Params, options: Config) -> Params:
    return params


class Term(NamedTuple):
    """A registered term.

    Attributes:
        loss: the term itself; a plain scalar is taken as its value.
        params: (options, dim) -> its learnt parameters at the start.
        stats: (options, dim) -> its estimates at the start.
        project: (params, options) -> the parameters after an update, within their limits.
        needs: (options) -> another term whose parameters it uses, or "".
    """

    loss: Callable[[TermInputs], "TermOutput | Array"]
    params: Callable[[Config, int], dict[str, Array]] = _no_arrays
    stats: Callable[[Config, int], dict[str, Array]] = _no_arrays
    project: Callable[[Params, Config], Params] = _unlimited
    needs: Callable[[Config], str] = lambda options: ""


TERMS: dict[str, Term] = {}


def loss_term(
    name: str, options: Section | None = None, help: str = "", **parts: Any
) -> Callable[[Callable], Callable]:
    """Registers a function as the loss term `config.losses.NAME`.

    Args:
        name: an identifier.
        options: the term's own fields; None for the terms that `config/loss_fields.py` declares.
        help: what the term is, for the generated documentation.
        **parts: `params`, `stats`, `project`, `needs` of `Term`.

    Raises:
        UserError: the name is taken.
    """

    def register(loss: Callable) -> Callable:
        if options is not None:
            register_loss(name, options, help)
        TERMS[name] = Term(loss, **parts)
        return loss

    return register
