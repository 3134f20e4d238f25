"""The training state: everything that a run needs to resume."""

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from jax_itm.distributed.mesh import state_sharding
from jax_itm.types import Params, PyTree

STATS = "stats"  # under this key of the parameters are estimates, which no gradient changes


@struct.dataclass
class State:
    """All that a run needs to resume; the state of the data is `step` itself.

    The fields may also be the shape or the sharding of each array.

    Attributes:
        step: int32, the number of updates.
        params: the parameters, with the estimates of `STATS`, such as those of batch normalisation.
        opt_state: of the optimizer, for the trainable parameters.
        ema: exponential moving averages of the parameters; None if the run keeps none.
    """

    step: PyTree
    params: Params
    opt_state: PyTree
    ema: Params | None

    @property
    def evaluation_params(self) -> Params:
        """The parameters that evaluation uses: the averages if there are any."""
        return self.params if self.ema is None else self.ema


def split_stats(params: Params) -> tuple[Params, PyTree]:
    """The trainable parameters, and the estimates; {} if there are none."""
    return {name: value for name, value in params.items() if name != STATS}, params.get(STATS, {})


def with_stats(trainable: Params, stats: PyTree) -> Params:
    """All parameters, of the two parts that `split_stats` gives."""
    return {**trainable, STATS: stats} if stats else trainable


def make_state(params: Params, optimizer: optax.GradientTransformation, ema: bool) -> State:
    """The state before the first step."""
    average = jax.tree.map(jnp.copy, params) if ema else None
    trainable, _ = split_stats(params)
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(trainable), average)


def abstract_state(
    params: Params, optimizer: optax.GradientTransformation, ema: bool, mesh: Mesh, fsdp: bool = False
) -> State:
    """Shape, type and sharding (`state_sharding`) of every array of a state; `params` may be shapes."""
    shapes = jax.eval_shape(lambda params: make_state(params, optimizer, ema), params)
    with_sharding = lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
    return jax.tree.map(with_sharding, shapes, state_sharding(mesh, shapes, fsdp))


def init_state(
    params: Params, optimizer: optax.GradientTransformation, ema: bool, mesh: Mesh, fsdp: bool = False
) -> State:
    """The state before the first step, sharded over the mesh as `state_sharding` says."""
    shapes = abstract_state(params, optimizer, ema, mesh, fsdp)
    shardings = jax.tree.map(lambda array: array.sharding, shapes)
    return jax.jit(lambda params: make_state(params, optimizer, ema), out_shardings=shardings)(params)
