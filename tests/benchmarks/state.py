"""Memory of an update on 8 virtual devices, with and without `config.fsdp` and `config.remat`.

    python tests/benchmarks/state.py [--width 384] [--layers 12] [--batch 64]

A ViT of 224 x 224 pixels and a BERT, InfoNCE, AdamW. Nothing is allocated or run: the bytes of the
state are those of its shards, temporary memory is read from the compiled program. MiB a device.
"""

import argparse
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import optax

from jax_itm.checkpoint.state import abstract_state
from jax_itm.config import Facts
from jax_itm.config.load import default
from jax_itm.distributed.mesh import batch_sharded, make_mesh
from jax_itm.methods import build, example_batch
from jax_itm.train import step
from jax_itm.types import Config


def settings(width: int, layers: int, batch: int, fsdp: bool, remat: bool) -> Config:
    """The config of a row."""
    config = default("info_nce")
    config.data.modality, config.image.name, config.text.name = "pixels", "vit", "bert"
    config.data.image_size, config.batch_size, config.fsdp, config.remat = 224, batch, fsdp, remat
    for side in (config.image, config.text):
        side.width, side.layers, side.heads, side.pooling = width, layers, width // 64, "mean"
    return config


def measure(config: Config) -> tuple[float, float, float]:
    """Parameters in millions; MiB of the state and of temporary memory, on one device."""
    mesh = make_mesh()
    facts = Facts(vocab=10_000)
    method = build(config, facts, 1000)
    optimizer = optax.adamw(1e-3)
    example = lambda: example_batch(config, facts, config.batch_size)
    params = jax.eval_shape(lambda: method.init(jax.random.key(0), example()))
    state = abstract_state(params, optimizer, False, mesh, config.fsdp)
    bytes_of = lambda x: np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    state_bytes = sum(map(bytes_of, jax.tree.leaves(state)))
    sharded = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharded(mesh))
    batch = jax.tree.map(sharded, jax.eval_shape(example))
    signal = sharded(jax.ShapeDtypeStruct((mesh.size,), np.int32))
    with jax.set_mesh(mesh):
        update = step.train_step(method, optimizer, mesh, 0, 0.0, state)
        memory = update.lower(state, batch, signal).compile().memory_analysis()
    count = sum(x.size for x in jax.tree.leaves(params)) / 1e6
    return count, state_bytes / 2**20, memory.temp_size_in_bytes / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("--width", 384), ("--layers", 12), ("--batch", 64)):
        parser.add_argument(name, type=int, default=value)
    sizes = vars(parser.parse_args())
    print("| fsdp | remat | million parameters | state | temporary |\n| --- | --- | ---: | ---: | ---: |")
    for fsdp in (False, True):
        for remat in (False, True):
            count, state, temporary = measure(settings(**sizes, fsdp=fsdp, remat=remat))
            print(f"| {fsdp} | {remat} | {count:.1f} | {state:,.1f} | {temporary:,.1f} |", flush=True)
