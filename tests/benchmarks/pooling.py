"""GPO's ranks: counted against XLA's sort, value and gradient.

python tests/benchmarks/pooling.py

Rows: n tokens of 256 dimensions, 128 sets (16 where n is above 64), of 5 to n true tokens. Medians of five
interleaved turns after one to warm up.
"""

import statistics
import time

import jax
import jax.numpy as jnp

from jax_itm.arrays import NEG_INF
from jax_itm.models.pooling import pool_by_rank


def sorted_(x, mask, weights):
    """By `jnp.sort` and a product."""
    ordered = -jnp.sort(jnp.where(mask[..., None], -x, -NEG_INF), axis=1)
    return jnp.einsum("bnd,bn->bd", jnp.where(weights[..., None] > 0, ordered, 0), weights)


def measure(n: int) -> tuple[float, float, float]:
    """Seconds of both, and the largest difference of their gradients."""
    keys, sets = jax.random.split(jax.random.key(0), 4), 128 if n <= 64 else 16
    x = jax.random.normal(keys[0], (sets, n, 256))
    mask = jnp.arange(n) < jax.random.randint(keys[1], (sets, 1), 5, n + 1)
    weights = jax.nn.softmax(jnp.where(mask, jax.random.normal(keys[2], (sets, n)), NEG_INF))
    out = jax.random.normal(keys[3], (sets, 256))
    loss = lambda pool: lambda x, w: jnp.sum(pool(x, mask, w) * out)
    forms = [jax.jit(jax.value_and_grad(loss(pool), (0, 1))) for pool in (sorted_, pool_by_rank)]
    actual = [jax.block_until_ready(form(x, weights)) for form in forms]
    times = ([], [])
    for _ in range(5):
        for form, taken in zip(forms, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(form(x, weights))
            taken.append(time.perf_counter() - start)
    apart = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), actual[0][1], actual[1][1])
    return statistics.median(times[0]), statistics.median(times[1]), max(apart)


def main() -> None:
    print("| tokens | sort, ms | counted, ms | ratio | gradients apart |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for n in (16, 24, 36, 64, 196):
        by_sort, by_count, apart = measure(n)
        ratio = by_count / by_sort
        print(f"| {n} | {1e3 * by_sort:.1f} | {1e3 * by_count:.1f} | {ratio:.2f} | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
