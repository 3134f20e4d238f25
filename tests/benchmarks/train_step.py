"""A whole DIAS training step against the forward and backward pass of its bare encoders.

Run by hand, on a quiet machine: python tests/benchmarks/train_step.py [--turns 21]

One device, Flickr30k's setting (36 regions of 2,048 features, BiGRU, d = 1024, batch 128): the step is
encoders, four loss terms, their gradients, clipping and AdamW; the bare part takes the gradient of the
sum of the embeddings. In turns; the ratio of medians, and the loss's own share by difference.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
from turns import medians  # beside this file

from configs.dias_f30k import get_config
from jax_itm.checkpoint.state import init_state
from jax_itm.config import Facts
from jax_itm.distributed.mesh import make_mesh, per_device, shard_local_batch
from jax_itm.methods import build, example_batch
from jax_itm.train import step
from jax_itm.train.optimizer import build as build_optimizer

VOCABULARY, EXAMPLES = 8_000, 145_000
FACTS = Facts(region_dim=2048, vocab=VOCABULARY)


def filled(shapes, rng):
    """A batch of random regions and captions, every region and word real."""
    regions = jax.random.normal(rng, shapes["image"]["regions"].shape, jnp.float16)
    words = jax.random.randint(rng, shapes["text"]["ids"].shape, 4, VOCABULARY)
    return shapes | {
        "image": shapes["image"] | {"regions": regions},
        "text": shapes["text"] | {"ids": words},
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=11)
    args = parser.parse_args()
    config, mesh = get_config(), make_mesh(1)
    method = build(config, FACTS, EXAMPLES)
    batch = shard_local_batch(
        mesh, jax.device_get(filled(example_batch(config, FACTS, config.batch_size), jax.random.key(0)))
    )
    with jax.set_mesh(mesh):
        params = jax.jit(method.init)(jax.random.key(0), example_batch(config, FACTS))
        optimizer, _ = build_optimizer(config, params, 10_000, EXAMPLES)
        state = init_state(params, optimizer, config.ema > 0, mesh)
        update = step.train_step(method, optimizer, mesh, config.seed, config.ema)

        def embed(params, batch, rng):
            image, text = (
                encoder.apply({"params": params[name]}, batch[name], train=True, rngs={"dropout": rng})
                for name, encoder in method.encoders.modules.items()
            )
            return jnp.sum(image.embedding) + jnp.sum(text.embedding)

        bare = jax.jit(jax.grad(embed))
        signal = per_device(mesh, 0)
        states = [state]  # the update takes the memory of the one before

        def whole_step():
            states[0], *_ = jax.block_until_ready(update(states[0], batch, signal))

        calls = {
            "the whole step": whole_step,
            "bare encoders": lambda: jax.block_until_ready(bare(params, batch, jax.random.key(1))),
        }
        seconds = medians(calls, args.turns)
    print("| | seconds | times the encoders |\n| --- | ---: | ---: |")
    for name, median in seconds.items():
        print(f"| {name} | {median:.3f} | {median / seconds['bare encoders']:.3f} |")


if __name__ == "__main__":
    main()
