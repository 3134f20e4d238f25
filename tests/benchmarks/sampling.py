"""What distribution sampling costs: alone, and as a share of CDDS's training step.

Run by hand, on a quiet machine: python tests/benchmarks/sampling.py [--regions 36 --words 32 --dim 512 ..]

"sampling" is S from the batch's moments, the sorts and the map of both sides, and L_s, with all gradients;
"step" the whole training step of `configs/cdds_scenes.py` in the sizes given; "step, contrast" the same step
with the plain contrast instead. The paper's own sampling costs 0.09 s of a batch's 0.11 s. In turns; medians.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
from train_step import VOCABULARY, filled  # beside this file
from turns import medians

from jax_itm import config as config_lib
from jax_itm import losses
from jax_itm.checkpoint.state import init_state
from jax_itm.config import Facts
from jax_itm.distributed.mesh import make_mesh, per_device, shard_local_batch
from jax_itm.methods import build, example_batch
from jax_itm.train import step
from jax_itm.train.optimizer import build as build_optimizer

CONFIG = str(Path(__file__).parents[2] / "configs/cdds_scenes.py")


def settings(args, argument=""):
    """Scenes' config in other sizes."""
    config = config_lib.read(CONFIG + argument, [])
    with config.unlocked():
        config.dim, config.batch_size = args.dim, args.batch
        config.data.max_regions, config.data.max_words = args.regions, args.words
    return config


def training(config, mesh, features):
    """One training step after another, on one batch."""
    facts = Facts(region_dim=features, vocab=VOCABULARY)
    method = build(config, facts, 20_000)
    local = filled(example_batch(config, facts, config.batch_size), jax.random.key(0))
    params = jax.jit(method.init)(jax.random.key(0), local)
    optimizer, _ = build_optimizer(config, params, 1000, 20_000)
    state = init_state(params, optimizer, False, mesh)
    update = step.train_step(method, optimizer, mesh, 0, 0.0)
    batch = shard_local_batch(mesh, jax.device_get(local))
    signal = per_device(mesh, 0)
    states = [state]  # the update takes the memory of the one before

    def once():
        states[0], terms, _ = update(states[0], batch, signal)
        return terms

    return once


def sampled(config):
    """Value and gradients of L_s on random tokens of the batch's shape."""
    rows = config.batch_size

    def side(key, count):
        tokens = jax.random.normal(jax.random.key(key), (rows, count, config.dim))
        return tokens, jnp.ones((rows, count), bool)

    (v, v_mask), (t, t_mask) = side(0, config.data.max_regions), side(1, config.data.max_words)

    def loss(v, t, thresholds):
        return losses.distribution_sampling(v, v_mask, t, t_mask, thresholds=thresholds)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    return lambda: run(v, t, jnp.ones(2))


def main():
    parser = argparse.ArgumentParser()
    sizes = {"batch": 64, "dim": 64, "regions": 6, "words": 24, "features": 432, "turns": 7}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    config, mesh = settings(args), make_mesh(1)
    with jax.set_mesh(mesh):
        calls = {
            "sampling": sampled(config),
            "step": training(config, mesh, args.features),
            "step, contrast": training(settings(args, ":without=sampling"), mesh, args.features),
        }
        seconds = medians(calls, args.turns)
    for name, value in seconds.items():
        print(f"{name:16} {1e3 * value:8.1f} ms, {value / seconds['step']:.3f} of the step")


if __name__ == "__main__":
    main()
