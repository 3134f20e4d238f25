"""Loss terms of a dual encoder, by name; and how to register your own.

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
from typing import Any, NamedTuple, TypeVar

from ml_collections import ConfigDict

from jax_itm.arrays import Encoded
from jax_itm.config.fields import Section, defaults
from jax_itm.config.loss_fields import LOSSES, register_loss
from jax_itm.config.rules import nearest
from jax_itm.errors import UserError
from jax_itm.losses import Plan, Sampled
from jax_itm.sharded.collectives import Axis
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
        key: the random key of this step, which all terms share: fold in a number of your own. `triplet`, the
            only term of the library that draws from it, uses it as it is; `sampled` folds in 1.
        step: completed updates.
        plan: how the similarity matrix is traversed.
        axis: the mesh axis, or axes, that the batch is split over.
        to_steps: converts a duration such as "1 epochs" to steps.
        sampled: distribution sampling of this batch, made once for all terms that call it. It needs the
            parameters of `sampling`: declare it in `uses_params_of`.
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
    axis: Axis
    to_steps: Callable[[str], int]
    sampled: Callable[[], Sampled]

    @property
    def matrix_options(self) -> dict[str, Any]:
        """The keyword arguments that every loss over the similarity matrix takes."""
        return {"image_ids": self.image_ids, "axis": self.axis, "plan": self.plan}


class TermOutput(NamedTuple):
    """What a term returns.

    Attributes:
        value: the term, unweighted.
        diagnostics: scalars to log as NAME/KEY; they carry no gradient.
        stats: the new `stats`.
    """

    value: Float[Array, ""]
    diagnostics: Terms = MappingProxyType({})  # type: ignore[assignment]
    stats: PyTree = MappingProxyType({})


TermFunction = Callable[[TermInputs], TermOutput | Array]  # a plain scalar is taken as the term's value
InitialArrays = Callable[
    [Config, int], dict[str, Array]
]  # (options, dim of the embeddings) -> arrays by name
Project = Callable[[Params, Config], Params]  # (params, options) -> params
NamedByOptions = Callable[[Config], str]  # (options) -> the name of a term, or ""


def _no_arrays(options: Config, dim: int) -> dict[str, Array]:
    return {}


def _unchanged(params: Params, options: Config) -> Params:
    return params


def _no_other_term(options: Config) -> str:
    return ""


class Term(NamedTuple):
    """A registered term.

    Attributes:
        function: the term itself.
        params: its learnt parameters at the start.
        stats: its estimates at the start.
        project: brings the parameters back within their limits, after each update.
        uses_params_of: another term whose parameters it uses, whatever that one's weight.
    """

    function: TermFunction
    params: InitialArrays = _no_arrays
    stats: InitialArrays = _no_arrays
    project: Project = _unchanged
    uses_params_of: NamedByOptions = _no_other_term


TERMS: dict[str, Term] = {}

Function = TypeVar("Function", bound=Callable)


def loss_term(
    name: str,
    options: Section | None = None,
    help: str = "",
    *,
    params: InitialArrays = _no_arrays,
    stats: InitialArrays = _no_arrays,
    project: Project = _unchanged,
    uses_params_of: NamedByOptions = _no_other_term,
) -> Callable[[Function], Function]:
    """Registers a function as the loss term `config.losses.NAME`, with its fields.

    Running the same definition again, such as a notebook's cell, replaces the function; its fields must then
    be the same.

    Args:
        name: an identifier.
        options: the term's own fields, in addition to `weight`, `start` and `ramp`.
        help: what the term is, for the generated documentation.
        params, stats, project, uses_params_of: as in `Term`.

    Raises:
        UserError: the name is no identifier, or another term or a value of the log has it.
    """

    def register(function: Function) -> Function:
        register_loss(name, options or {}, help)
        return declared_term(name, params, stats, project, uses_params_of)(function)

    return register


def declared_term(
    name: str,
    params: InitialArrays = _no_arrays,
    stats: InitialArrays = _no_arrays,
    project: Project = _unchanged,
    uses_params_of: NamedByOptions = _no_other_term,
) -> Callable[[Function], Function]:
    """`loss_term` for the library's own terms, whose fields `config/loss_fields.py` declares.

    They are declared there, and not at the function, so that a config is read without importing JAX.
    """

    def register(function: Function) -> Function:
        if name in TERMS and _definition(TERMS[name].function) != _definition(function):
            raise UserError(f"config.losses.{name}: there is such a loss term already")
        TERMS[name] = Term(function, params, stats, project, uses_params_of)
        return function

    return register


def _definition(function: Callable) -> tuple[str, str]:
    """Where a function is defined: equal where a module or a cell has run again."""
    return function.__module__, function.__qualname__


def loss_options(terms: Mapping[str, Mapping[str, Any]]) -> Config:
    """The options of every loss term: their defaults with `terms` on top, {"info_nce": {"weight": 1.0}}.

    Raises:
        UserError: an unknown term or option, or a value of another type.
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
