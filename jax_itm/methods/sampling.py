"""Distribution sampling of a batch, computed once for all terms that use it."""

from collections.abc import Callable
from functools import cache

import jax

from jax_itm import losses
from jax_itm.errors import ArgumentError
from jax_itm.losses import Plan, Sampled, Sampling
from jax_itm.methods.encoder_pair import EncodedPair
from jax_itm.sharded.collectives import Axis
from jax_itm.types import Array, Config, Int, Params, PRNGKeyArray


def sampled_once(
    encoded: EncodedPair,
    image_ids: Int[Array, "b"] | None,
    options: Config,
    params: Params,
    key: PRNGKeyArray,
    *,
    axis: Axis,
    plan: Plan,
) -> Callable[[], Sampled]:
    """A function that samples the batch when it is first called, and then returns the same arrays.

    Args:
        encoded: both sides of the batch.
        image_ids: equal numbers mark captions of one image.
        options: `config.losses.sampling`.
        params: of all terms, by name; only a call needs those of `sampling`.
        key: of this step.
        axis: the mesh axis, or axes, that the batch is split over.
        plan: how the similarity matrix is traversed.
    """

    @cache  # computed once per trace, for whichever term asks first
    def sampled() -> Sampled:
        if "sampling" not in params:
            raise ArgumentError(
                "inputs.sampled() needs the parameters of `sampling`: register the term that calls it with"
                " uses_params_of=lambda options: 'sampling'"
            )
        image, text, _ = encoded
        v = image.tokens
        t = text.tokens
        origin = None
        if image.origin is not None and text.origin is not None:
            origin = image.origin, text.origin
        else:  # no head has made the tokens' columns comparable
            v = losses.equal_length(v)
            t = losses.equal_length(t)
        return losses.sample_distributions(
            v,
            image.mask,
            t,
            text.mask,
            thresholds=params["sampling"]["thresholds"],
            image_ids=image_ids,
            options=Sampling(**{name: options[name] for name in Sampling._fields}),
            key=jax.random.fold_in(key, 1),
            origin=origin,
            axis=axis,
            plan=plan,
        )

    return sampled
