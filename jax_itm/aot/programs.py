"""The programs of a run, lowered with abstract shapes: they need no data, weights or devices."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding

from jax_itm import methods
from jax_itm.checkpoint.state import abstract_state
from jax_itm.config import Facts
from jax_itm.distributed.mesh import batch_sharded, replicated
from jax_itm.durations import steps_of
from jax_itm.inference.steps import encode_step, score_step
from jax_itm.methods import Method, example_batch
from jax_itm.train.optimizer import build as build_optimizer
from jax_itm.train.step import train_step
from jax_itm.types import Config, PyTree

# The scopes that the operations of a training step carry, for its parts.
PARTS = {"optimizer": "optimizer", "encoders": "encoders|Uniter", "loss": "losses"}


class Step(NamedTuple):
    """A program before it is compiled.

    Attributes:
        name: for the table.
        lower: traces it.
    """

    name: str
    lower: Callable[[], Any]


def steps(config: Config, facts: Facts, mesh: Mesh, epoch_examples: int) -> Iterator[Step]:
    """The training step, the two encoding steps and the scoring of a block.

    Args:
        config: of the run.
        facts: of the run.
        mesh: over the devices to compile for.
        epoch_examples: examples of an epoch, which turn durations into steps.
    """
    method = methods.build(config, facts, epoch_examples)
    params = jax.eval_shape(method.init, jax.random.key(0), example_batch(config, facts))
    yield Step("training step", lambda: _training(config, facts, mesh, method, params, epoch_examples))
    rows = -(-config.evaluate.batch_size // mesh.size) * mesh.size
    batch = _abstract(lambda: example_batch(config, facts, rows), batch_sharded(mesh))
    params = _with_sharding(params, replicated(mesh))
    encoded = {}
    for side, encode in (("image", method.encode_image), ("text", method.encode_text)):
        step = encode_step(encode, mesh)
        yield Step(f"encoding {rows} {side}s", lambda step=step, side=side: step.lower(params, batch[side]))
        encoded[side] = _with_sharding(jax.eval_shape(encode, params, batch[side]), replicated(mesh))
    scoring = score_step(method.score, mesh)
    pairs = encoded["image"], encoded["text"]
    yield Step(f"scoring {rows} x {rows}", lambda: scoring.lower(params, *pairs))


def _training(
    config: Config, facts: Facts, mesh: Mesh, method: Method, params: PyTree, epoch_examples: int
) -> Any:
    total_steps = steps_of(config.duration, config.batch_size, epoch_examples)
    optimizer, _ = build_optimizer(config, params, total_steps, epoch_examples)
    state = abstract_state(params, optimizer, config.ema > 0, mesh, config.fsdp)
    update = train_step(method, optimizer, mesh, config.seed, config.ema, state)
    batch = _abstract(lambda: example_batch(config, facts, config.batch_size), batch_sharded(mesh))
    signal = jax.ShapeDtypeStruct((mesh.size,), "int32", sharding=batch_sharded(mesh))
    return update.lower(state, batch, signal)


def _abstract(make: Callable[[], PyTree], sharding: NamedSharding) -> PyTree:
    return _with_sharding(jax.eval_shape(make), sharding)


def _with_sharding(tree: PyTree, sharding: NamedSharding) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
