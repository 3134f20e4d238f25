"""The training state: all that a run needs to resume."""

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from jax_itm.distributed.mesh import placed
from jax_itm.types import Params, PyTree


@struct.dataclass
class State:
    """All that a run needs to go on; the data's state is `step` itself. Or the sharding of each array."""

    step: PyTree  # an int32
    params: Params
    opt_state: PyTree
    ema: Params | None

    @property
    def best_params(self) -> Params:
        """What evaluation uses: the averaged parameters where there are any."""
        return self.params if self.ema is None else self.ema


def init_state(
    params: Params, optimizer: optax.GradientTransformation, ema: bool, mesh: Mesh, fsdp: bool = False
) -> State:
    """The state before the first step, placed on the mesh as `parallel.placed` says."""

    def make(params):
        average = jax.tree.map(jnp.copy, params) if ema else None
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)

    shardings = placed(mesh, jax.eval_shape(make, params), fsdp)
    return jax.jit(make, out_shardings=shardings)(params)
