"""One update of IAIS in forward passes of a pair: counted, and measured.

Run by hand, on a quiet machine: python tests/benchmarks/iais_update.py [--hidden 128 --layers 3]

One device and one pool in the paper's counts: 8 anchors each way, 400 matched pairs, the 31 hardest; 36
regions of 2,048 features and 32 words. Mining is 2 x 8 x 400 forward passes, the gradient 2 x 8 x 32
forward and backward ones. "embedded by pair" mines as the authors' code does: words and regions of a
candidate embedded once more for each anchor: a whole forward pass a pair. In turns; medians.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
from train_step import FACTS, filled  # beside this file
from turns import medians

from jax_itm.checkpoint.state import init_state
from jax_itm.config.load import default
from jax_itm.distributed.mesh import make_mesh, per_device, shard_local_batch
from jax_itm.methods import build, example_batch
from jax_itm.train import step
from jax_itm.train.optimizer import build as build_optimizer


def settings(hidden, layers):
    """The paper's counts in a small model."""
    config = default("iais")
    config.uniter.hidden, config.uniter.layers, config.uniter.heads = hidden, layers, max(1, hidden // 64)
    config.batch_size, config.data.max_regions, config.data.max_words = config.mining.pool, 36, 32
    config.optimizer.name = "bert_adam"
    return config


def by_pair(method, params, batch):
    """The scores that mining takes, each pair embedded anew."""
    options, each = method.mining, jnp.arange(method.mining.pool)
    anchors = jnp.arange(options.anchors)
    grids = jnp.meshgrid(anchors, each, indexing="ij"), jnp.meshgrid(each, anchors, indexing="ij")
    text, image = (jnp.concatenate([grid[k].ravel() for grid in grids]) for k in (0, 1))

    def one(pair):
        row = lambda tree, k: jax.tree.map(lambda x: x[k][None], tree)
        inputs = {"text": row(batch["text"], pair[0]), "image": row(batch["image"], pair[1])}
        return method.model.apply({"params": params}, inputs)[0]

    return jax.lax.map(one, (text, image), batch_size=options.tile)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    config, mesh = settings(args.hidden, args.layers), make_mesh(1)
    options, method = config.mining, build(config, FACTS, 145_000)
    local = jax.device_get(filled(example_batch(config, FACTS, config.batch_size), jax.random.key(0)))
    batch = shard_local_batch(mesh, local)
    with jax.set_mesh(mesh):
        params = jax.jit(method.init)(jax.random.key(0), example_batch(config, FACTS))
        optimizer, _ = build_optimizer(config, params, 5_000, 145_000)
        state = init_state(params, optimizer, False, mesh)
        update = step.train_step(method, optimizer, mesh, config.seed, 0.0)

        def mine(params, batch):
            texts, images = method._embed(params, batch)
            return method.miner.hardest(params, texts, images, batch["image_id"])

        signal = per_device(mesh, 0)
        states = [jax.tree.map(jnp.copy, state)]  # the update takes the memory of the one before

        def whole_update():
            states[0], terms, _ = update(states[0], batch, signal)
            return terms

        mining = jax.jit(mine)
        anew = jax.jit(lambda params, batch: by_pair(method, params, batch))
        seconds = medians(
            {
                "mining": lambda: mining(params, batch),
                "mining, embedded by pair": lambda: anew(params, batch),
                "the whole update": whole_update,
            },
            args.turns,
        )
    mined = 2 * options.anchors * options.pool
    pair = seconds["mining, embedded by pair"] / mined
    trained = 2 * options.anchors * (1 + options.hardest)
    counts = {"mining": f"{mined:,}", "mining, embedded by pair": f"{mined:,}"}
    counts["the whole update"] = f"{mined:,} + {trained:,} with gradient"
    print(f"hidden {args.hidden}, {args.layers} layers; a forward pass of one pair: {1e6 * pair:.0f} us\n")
    print("| | pairs | seconds | in forward passes |\n| --- | ---: | ---: | ---: |")
    for name, median in seconds.items():
        print(f"| {name} | {counts[name]} | {median:.2f} | {median / pair:,.0f} |")


if __name__ == "__main__":
    main()
