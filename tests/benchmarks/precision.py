"""What bfloat16 products (`config.similarity.dtype`) do to each loss and its gradient.

Run by hand: python tests/benchmarks/precision.py [--batch 2048] [--dim 512]

Against the same loss in float64: the relative error of the value, and of the gradient the relative
error of its norm-wise difference and the cosine. Sums are float32 in either form.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from similarity import PLAIN, embeddings, ours  # beside this file

from jax_itm.losses import Plan


def measured(name, plan, v, t, dtype):
    """Value and gradient, as float64 vectors."""
    rows = [jnp.asarray(x, dtype) for x in (v, t)]
    ids = jnp.arange(len(v), dtype=jnp.int32)
    value, grads = jax.jit(jax.value_and_grad(ours(name, plan), argnums=(0, 1)))(*rows, ids)
    return float(value), np.concatenate([np.asarray(g, np.float64).ravel() for g in grads])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--dim", type=int, default=512)
    args = parser.parse_args()
    v, t = embeddings(args.batch, args.dim)
    print(f"B = {args.batch}, d = {args.dim}\n")
    print("| loss | products | value | gradient | cosine |\n| --- | --- | ---: | ---: | ---: |")
    for name in (*PLAIN, "DIAS, four terms"):
        with jax.enable_x64(True):
            value, grad = measured(name, Plan("ring"), v, t, jnp.float64)
        for dtype in ("float32", "bfloat16"):
            got, other = measured(name, Plan("ring", dtype=dtype), v, t, jnp.float32)
            apart = np.linalg.norm(other - grad) / np.linalg.norm(grad)
            cosine = other @ grad / np.linalg.norm(grad) / np.linalg.norm(other)
            print(
                f"| {name} | {dtype} | {abs(got / value - 1):.1e} | {apart:.1e} | {cosine:.6f} |", flush=True
            )


if __name__ == "__main__":
    main()
