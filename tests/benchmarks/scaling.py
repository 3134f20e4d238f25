"""Weak scaling of a DIAS training step on virtual devices: the same rows a device on 1, 2, 4 and 8.

Run by hand, on a quiet machine: python tests/benchmarks/scaling.py [--rows 16] [--dim 256] [--steps 5]

    seconds    median of a step; virtual devices share the machine's cores, so it grows with their number
    exchange   the collectives' share of the devices' time, by JAX's profiler, waiting for each other included
    MB         that a device sends a step, by kind, counted in the compiled program: each collective's shape,
               times the turns of the loops around it

The last lines are an ESTIMATE: the collectives' arrays on `--chips` chips, each kind carried on in a straight
line from the last two meshes, over published speeds of links. Latency, and computing meanwhile, are left out.
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
from train_step import EXAMPLES, VOCABULARY, filled  # beside this file

from configs.dias_f30k import get_config
from jax_itm.checkpoint.state import init_state
from jax_itm.config import Facts
from jax_itm.distributed.mesh import make_mesh, per_device, shard_local_batch
from jax_itm.methods import build, example_batch
from jax_itm.train import step
from jax_itm.train.optimizer import build as build_optimizer

KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
COLLECTIVE = re.compile(rf"%(\S+) = (.+?) ({KINDS})(?:-start)?\(")
SHAPE = re.compile(r"(pred|[suf]8|bf16|[suf]16|[suf]32|[suf]64)\[([0-9,]*)\]")
CALLED = re.compile(r"(?:body|to_apply|calls|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)")
# Bytes a second that a chip or a GPU can send, one way: half of the published figure for both ways.
LINKS = {
    "TPU v5e, ICI (1,600 Gbit/s a chip)": 1600e9 / 8 / 2,
    "H100, NVLink (900 GB/s a GPU)": 900e9 / 2,
    "400 Gbit/s a GPU between hosts": 400e9 / 8,
}


def size_of(shapes: str) -> int:
    """Bytes of the array or tuple that an instruction gives."""
    total = 0
    for kind, axes in SHAPE.findall(shapes):
        items = 1
        for axis in filter(None, axes.split(",")):
            items *= int(axis)
        total += items * (1 if kind == "pred" else int(re.sub(r"\D", "", kind)) // 8)
    return total


def sent(kind: str, size: float, devices: int) -> float:
    """Bytes that a device sends for a collective over arrays of `size` bytes, as rings do it."""
    if kind == "collective-permute":
        return size
    return (2 if kind == "all-reduce" else 1) * size * (devices - 1) / devices


def count(text: str, devices: int) -> tuple[dict[str, float], set[str]]:
    """Bytes of the collectives' arrays by kind, and the collectives' names, of a compiled program's text."""
    bodies, names, main = {}, set(), ""
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%([\w.\-]+) \(.*\{$", line):
            inside = bodies.setdefault(header[2], [])
            main = header[2] if header[1] else main
        elif line.startswith("  "):
            inside.append(line)

    def collect(name: str) -> dict[str, float]:
        total = defaultdict(float)
        for line in bodies[name]:
            if collective := COLLECTIVE.search(line):
                instruction, shapes, kind = collective.groups()
                names.add(instruction)
                parts = devices if kind == "reduce-scatter" else 1  # the result is one part of the array
                total[kind] += parts * size_of(shapes)
                continue
            called = [name for group in CALLED.findall(line) for name in re.findall(r"%([\w.\-]+)", group)]
            known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
            for each in map(collect, called):
                if each and " while(" in line and not known:
                    sys.exit(f"a loop with collectives has no known number of turns:{line}")
                for kind, size in each.items():
                    total[kind] += size * (int(known[1]) if known else 1)
        return total

    return collect(main), names


def exchange(folder: str, names: set[str], devices: int, seconds: float) -> float:
    """The share of the devices' time in collectives, from the profile in `folder`."""
    profile = jax.profiler.ProfileData.from_file(str(next(Path(folder).rglob("*.xplane.pb"))))
    events = (e for plane in profile.planes for line in plane.lines for e in line.events)
    return sum(event.duration_ns for event in events if event.name in names) / 1e9 / (devices * seconds)


def measure(devices: int, args: argparse.Namespace) -> tuple[float, float, dict[str, float]]:
    """Median seconds of a step, the collectives' share, and `count`'s bytes."""
    config, mesh = get_config(), make_mesh(devices)
    with config.unlocked():
        config.dim = args.dim
        config.batch_size = args.rows * devices
    facts = Facts(region_dim=args.region_dim, vocab=VOCABULARY)
    method = build(config, facts, EXAMPLES)
    rng = jax.random.key(0)
    batch = shard_local_batch(
        mesh, jax.device_get(filled(example_batch(config, facts, config.batch_size), rng))
    )
    with jax.set_mesh(mesh):
        params = jax.jit(method.init)(rng, example_batch(config, facts))
        optimizer, _ = build_optimizer(config, params, 10_000, EXAMPLES)
        state = init_state(params, optimizer, config.ema > 0, mesh)
        update = step.train_step(method, optimizer, mesh, config.seed, config.ema)
        signal = per_device(mesh, 0)
        update = update.lower(state, batch, signal).compile()
        sizes, names = count(update.as_text(), devices)
        state, *_ = jax.block_until_ready(update(state, batch, signal))
        times = []
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                for _ in range(args.steps):
                    start = time.perf_counter()
                    state, *_ = jax.block_until_ready(update(state, batch, signal))
                    times.append(time.perf_counter() - start)
            share = exchange(folder, names, devices, sum(times))
    return statistics.median(times), share, sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("rows", 16), ("dim", 256), ("region_dim", 512), ("steps", 5), ("chips", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--devices", default="1,2,4,8", help="the meshes, the last two for the estimate")
    args = parser.parse_args()
    meshes = [int(word) for word in args.devices.split(",")]
    if len(meshes) < 2 or meshes[-2] < 2:
        parser.error("--devices: the last two must be of several devices, since one exchanges nothing")
    results = {devices: measure(devices, args) for devices in meshes}
    kinds = sorted({kind for _, _, sizes in results.values() for kind in sizes})
    print(f"| devices | rows | seconds | exchange | {' | '.join(f'{kind}, MB' for kind in kinds)} |")
    print("| ---: " * (4 + len(kinds)) + "|")
    for devices, (seconds, share, sizes) in results.items():
        each = " | ".join(f"{sent(kind, sizes.get(kind, 0), devices) / 1e6:.2f}" for kind in kinds)
        print(f"| {devices} | {args.rows * devices} | {seconds:.3f} | {share:.0%} | {each} |")
    a, b = meshes[-2:]
    reached = 0.0
    for kind in kinds:
        before, last = (results[devices][2].get(kind, 0) for devices in (a, b))
        reached += sent(kind, last + (last - before) / (b - a) * (args.chips - b), args.chips)
    print(f"\nESTIMATE for {args.chips} chips: a device sends {reached / 1e6:.1f} MB a step")
    for name, speed in LINKS.items():
        print(f"  {name}: {1e3 * reached / speed:.2f} ms a step at least")


if __name__ == "__main__":
    main()
