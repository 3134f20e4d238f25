"""COCO 5K's evaluation, 5,000 images x 25,000 captions, against the bare product of its embeddings.

Run by hand, on a quiet machine: python tests/benchmarks/evaluation.py [--dim 1024] [--turns 5]

Scores, ranks and recalls as `evaluate` computes them, from embeddings that are there; the bare
product `images @ texts.T`, whose 500 MB are written and left; and VSE-infinity's own code (a sort of
every row, in numpy). In turns; medians. Extra memory is the process's peak above what it held before.
"""

import argparse
import ctypes
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np
from memory import peak  # beside this file

from jax_itm.checkpoint.checkpoints import Description
from jax_itm.config import Facts
from jax_itm.config.load import default
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import make_mesh
from jax_itm.evaluation.evaluate import EncodedSplit, count
from jax_itm.inference.matcher import Matcher
from jax_itm.methods import build

IMAGES, EACH = 5000, 5


def warm_peak(call) -> float:
    """The peak of a second call: the first compiles."""
    call()
    ctypes.CDLL(None).malloc_trim(0)  # what the first call left to the allocator counts anew
    return peak(call)


def vse_infinity(sims):
    """lib/evaluation.py of VSE-infinity, `i2t` and `t2i` as its authors write them."""
    n = sims.shape[0]
    i2t, t2i = np.zeros(n), np.zeros((n, EACH))
    for index in range(n):
        order = np.argsort(sims[index])[::-1]
        i2t[index] = min(np.where(order == i)[0][0] for i in range(EACH * index, EACH * index + EACH))
    by_text = sims.T
    for index in range(n):
        for i in range(EACH):
            order = np.argsort(by_text[EACH * index + i])[::-1]
            t2i[index, i] = np.where(order == index)[0][0]
    return i2t, t2i


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--peer", action="store_true", help="VSE-infinity's code too, once")
    args = parser.parse_args()
    random, mesh = np.random.default_rng(0), make_mesh(1)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    images = unit(random.standard_normal((IMAGES, args.dim), np.float32))
    texts = np.repeat(images, EACH, axis=0) + 2 * random.standard_normal(
        (EACH * IMAGES, args.dim), np.float32
    )
    caption_image = np.repeat(np.arange(IMAGES), EACH)
    v, t = jax.device_put((images, unit(texts)))
    config, tokenizer = default("info_nce"), Tokenizer.fit(["a dog"])
    run = Description(config, Facts(vocab=len(tokenizer)), tokenizer)
    matcher = Matcher(run, build(config, run.facts), mesh)
    product = jax.jit(lambda v, t: v @ t.T)
    calls = {
        "evaluate": lambda: count(matcher, EncodedSplit(v, t), caption_image).result(),
        "bare product": lambda: product(v, t).block_until_ready(),
    }
    held = {name: warm_peak(call) for name, call in calls.items()}
    seconds = {name: [] for name in calls}
    for _ in range(args.turns):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    if args.peer:
        sims = np.asarray(product(v, t))
        start = time.perf_counter()
        vse_infinity(sims)
        seconds["VSE-infinity's code, after the product"] = [time.perf_counter() - start]
    print(f"d = {args.dim}, {os.cpu_count()} cores\n\n| | seconds | times the product | extra MiB |")
    print("| --- | ---: | ---: | ---: |")
    bare = statistics.median(seconds["bare product"])
    for name, each in seconds.items():
        median = statistics.median(each)
        print(
            f"| {name} | {median:.2f} | {median / bare:.2f} | {f'{held[name]:.0f}' if name in held else ''} |"
        )


if __name__ == "__main__":
    main()
