"""Estimated cost of the tile schedules on TPU slices: compiled there, by the compiler that needs no TPU.

    pip install -e .[aot]
    python tests/benchmarks/schedules.py [--topology v5e:4x8 ..] [--batch 32768 ..] [--dim 512 ..]

InfoNCE, value and gradient. Milliseconds are the estimates of the fusions, over the turns of loops,
without collectives; beside them the bytes that a chip receives, and how many of the permutes are under way
while it works.
"""

import argparse
import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jax_itm import losses
from jax_itm.aot import hlo
from jax_itm.arrays import l2_normalise
from jax_itm.distributed.mesh import mesh_over
from jax_itm.distributed.topology import offline_devices
from jax_itm.platforms import CHIPS
from jax_itm.sharded.collectives import batch_axes
from jax_itm.sharded.tiles import Matrix

MIB = 2**20


def plain(v, t):
    """All columns at once and the whole strip of scores: what automatic differentiation makes of it."""
    everything = jax.lax.with_sharding_constraint(t, PartitionSpec())
    logits = 20.0 * jnp.matmul(v, everything.T, precision="highest")
    by_row = jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits)
    by_column = jax.nn.logsumexp(logits, axis=0) - jnp.diagonal(logits)
    return (jnp.mean(by_row) + jnp.mean(by_column)) / 2


def ours(plan):
    """The library's loss."""
    return lambda v, t: losses.info_nce(v, t, scale=20.0, plan=plan)


def measure(mesh, loss, batch, dim):
    """Estimated ms, temporary MiB, MiB received, permutes and how many overlap, seconds to compile."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((batch, dim), jnp.float32, sharding=rows)
    start = time.monotonic()
    with jax.set_mesh(mesh):
        step = jax.value_and_grad(lambda v, t: loss(l2_normalise(v), l2_normalise(t)), (0, 1))
        compiled = jax.jit(step).lower(x, x).compile()
    program = hlo.parse(compiled.as_text())
    chip = next(c for c in CHIPS.values() if c.kind == mesh.devices.flat[0].device_kind)
    sent = hlo.collectives(program, [tuple(device.coords) for device in mesh.devices.flat])
    permutes = [row for row in sent if row.kind == "collective-permute"]
    return (
        hlo.cycles_by(program, {})["other"] / chip.clock / 1e6,
        compiled.memory_analysis().temp_size_in_bytes / MIB,
        sum(row.bytes for row in sent) / MIB,
        f"{sum(row.overlapped for row in permutes)} of {sum(row.count for row in permutes)}",
        time.monotonic() - start,
    )


def group_of(mesh, form, batch, dim):
    """How many devices' columns a device has at a time."""
    if form == "plain":
        return mesh.size
    own = jax.ShapeDtypeStruct((batch // mesh.size, dim), jnp.float32)
    with jax.set_mesh(mesh):
        return Matrix(batch, batch_axes("data"), losses.Plan(schedule=form)).group((own,))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", nargs="+", default=["v5e:4x8", "v5e:16x16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[32768, 65536])
    parser.add_argument("--dim", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--forms", nargs="+", default=["ring", "gather", "auto", "plain"])
    args = parser.parse_args()
    print(
        "| slice | batch | d | form | devices a group | est. ms | temporary MiB | MiB received | overlapped |"
    )
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for name in args.topology:
        mesh = mesh_over(offline_devices(name))
        for batch, dim in zip(args.batch, args.dim, strict=True):
            for form in args.forms:
                group = group_of(mesh, form, batch, dim)
                loss = plain if form == "plain" else ours(losses.Plan(schedule=form))
                ms, temporary, received, overlapped, _ = measure(mesh, loss, batch, dim)
                print(
                    f"| {name} | {batch:,} | {dim} | {form} | {group} | {ms:.2f} | {temporary:.1f} |"
                    f" {received:,.0f} | {overlapped} |",
                    flush=True,
                )
