"""The sharded losses against this project's dense and all-gather forms, open_clip and VSE++ in PyTorch.

Run by hand, on a quiet machine:

    pip install -e .[benchmark] && pip install --no-deps open_clip_torch
    python tests/benchmarks/similarity.py [--batch 16384] [--dim 512] [--turns 3] [--devices 8]

Value and gradient of each loss, float32, in turns, so that another load on the machine meets every
form alike; medians, and ratios of medians. Temporary memory is read from the compiled program, a
device. Ratios against PyTorch are refused where the machine is not quiet: its spinning threads then
make them wrong, not noisy. Eight virtual devices on two cores say nothing about interconnects.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from memory import peak  # beside this file

from jax_itm import losses
from jax_itm.distributed.mesh import batch_sharded, make_mesh
from jax_itm.losses import Plan

AXIS = "data"
MARGIN = 0.2
SCALE = 14.3


# The plain forms: one direction at a time, from a device's rows against all columns.


def plain_info_nce(s, negative, own):
    logits = SCALE * jnp.where(negative | own, s, -jnp.inf)
    return jnp.mean(jax.nn.logsumexp(logits, 1) - SCALE * jnp.sum(jnp.where(own, s, 0), 1)) / 2


def plain_hardest(s, negative, own):
    positive = jnp.sum(jnp.where(own, s, 0), 1)
    return jnp.sum(jax.nn.relu(MARGIN + jnp.max(jnp.where(negative, s, -jnp.inf), 1) - positive))


def plain_sigmoid(s, negative, own):
    each = jax.nn.softplus(jnp.where(own, -1, 1) * (10 * s - 10))
    return jnp.sum(jnp.where(negative | own, each, 0)) / s.shape[1]


PLAIN = {
    "InfoNCE": (plain_info_nce, 2),
    "triplet hardest": (plain_hardest, 2),
    "sigmoid": (plain_sigmoid, 1),
}


def masks(rows, columns, start):
    own = (start + jnp.arange(len(rows)))[:, None] == jnp.arange(len(columns))[None, :]
    return rows[:, None] != columns[None, :], own


def dense(name):
    """The whole matrix, partitioned by the compiler."""
    loss, directions = PLAIN[name]

    def matrix(v, t, ids):
        s = v @ t.T
        total = loss(s, *masks(ids, ids, 0))
        return total + loss(s.T, *masks(ids, ids, 0)) if directions == 2 else total

    return matrix


def all_gather(name):
    """Every device's rows against the gathered columns, both directions by their own product."""
    loss, directions = PLAIN[name]

    def rows(v, t, ids):
        start = lax.axis_index(AXIS) * len(v)
        everything = lambda x: lax.all_gather(x, AXIS, tiled=True)
        seen = masks(ids, everything(ids), start)
        total = loss(v @ everything(t).T, *seen)
        if directions == 2:
            total += loss(t @ everything(v).T, *seen)
        mean = name == "InfoNCE"
        return (lax.pmean if mean else lax.psum)(total, AXIS)

    return jax.shard_map(rows, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec())


def ours(name, plan):
    """A loss of this package, of (images, texts, image ids)."""
    knn = {"negatives": "knn", "k": 8}
    call = {
        "InfoNCE": lambda v, t, **inputs: losses.info_nce(v, t, scale=SCALE, **inputs),
        "triplet hardest": lambda v, t, **inputs: losses.triplet(v, t, margin=MARGIN, **inputs),
        "triplet knn": lambda v, t, **inputs: losses.triplet(v, t, margin=MARGIN, **knn, **inputs),
        "sigmoid": lambda v, t, **inputs: losses.sigmoid(v, t, scale=10.0, bias=-10.0, **inputs),
        "DIAS, four terms": lambda v, t, **inputs: losses.dias(v, t, key=jax.random.key(0), **inputs),
    }[name]
    return lambda v, t, ids: call(v, t, image_ids=ids, plan=plan)


def torch_losses():
    """open_clip's two losses, and VSE++'s as its authors write it (masked_fill, then max)."""
    import torch

    # The file alone: the package itself imports torchvision, which its losses do not need.
    place = Path(importlib.util.find_spec("open_clip").submodule_search_locations[0]) / "loss.py"
    spec = importlib.util.spec_from_file_location("open_clip_loss", place)
    open_clip = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(open_clip)

    def vsepp(v, t):
        scores = v @ t.T
        diagonal = scores.diag().view(-1, 1)
        mask = torch.eye(len(scores)) > 0.5
        cost_s = (MARGIN + scores - diagonal).clamp(min=0).masked_fill_(mask, 0)
        cost_im = (MARGIN + scores - diagonal.t()).clamp(min=0).masked_fill_(mask, 0)
        return cost_s.max(1)[0].sum() + cost_im.max(0)[0].sum()

    clip, siglip = open_clip.ClipLoss(cache_labels=True), open_clip.SigLipLoss()
    scale, slope, bias = torch.tensor(SCALE), torch.tensor(10.0), torch.tensor(-10.0)
    return {
        "InfoNCE": lambda v, t: clip(v, t, scale),
        "triplet hardest": vsepp,
        "sigmoid": lambda v, t: siglip(v, t, slope, bias),
    }


def embeddings(batch, dim):
    random = np.random.default_rng(0)
    v = random.standard_normal((batch, dim), np.float32)
    t = v + 2 * random.standard_normal((batch, dim), np.float32)
    return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (v, t)]


def prepared(loss, v, t, devices):
    """A compiled value-and-gradient call on its devices, and its temporary MiB a device."""
    mesh = make_mesh(devices)
    rows = batch_sharded(mesh)
    with jax.set_mesh(mesh):
        inputs = jax.device_put((v, t, np.arange(len(v), dtype=np.int32)), rows)
        of = jax.value_and_grad(loss, argnums=(0, 1))
        program = jax.jit(of, out_shardings=(None, (rows, rows))).lower(*inputs).compile()
    held = program.memory_analysis().temp_size_in_bytes / 2**20
    return (lambda: jax.block_until_ready(program(*inputs))), held


def prepared_torch(loss, v, t):
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    inputs = [torch.tensor(x, requires_grad=True) for x in (v, t)]

    def call():
        for x in inputs:
            x.grad = None
        value = loss(*inputs)
        value.backward()
        return value.detach().numpy(), [x.grad.numpy() for x in inputs]

    return call


def quiet() -> tuple[bool, float]:
    """Processor time over wall time of a matrix product: near the number of cores on a quiet machine."""
    a = jnp.ones((4096, 4096))
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(5):
        jax.block_until_ready(product(a))
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    return share > 0.85 * (os.cpu_count() or 1), share


def forms(name, v, t, devices, with_torch):
    """Each form of a loss, made when called: (value-and-gradient call, temporary MiB a device)."""
    built = {
        "ring": lambda: prepared(ours(name, Plan("ring")), v, t, devices),
        "gather, tiled": lambda: prepared(ours(name, Plan("gather")), v, t, devices),
    }
    if name in PLAIN:
        built["all-gather"] = lambda: prepared(all_gather(name), v, t, devices)
        built["dense"] = lambda: prepared(dense(name), v, t, devices)
        if with_torch:
            built["PyTorch"] = lambda: (prepared_torch(torch_losses()[name], v, t), None)
    return built


def peaks(names, args) -> None:
    """The table of peaks, each form in a process of its own."""
    print("| loss | form | MiB above the embeddings, all devices |\n| --- | --- | ---: |")
    for name in names:
        for form in forms(name, None, None, args.devices, not args.no_torch):
            command = [sys.executable, __file__, "--peak", f"{name}/{form}", "--batch", str(args.batch)]
            command += ["--dim", str(args.dim), "--devices", str(args.devices)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"| {name} | {form} | {done.stdout.split()[-1]} |", flush=True)


def times(name, built, turns, silent) -> float:
    """Prints the rows of one loss and returns the ring's seconds."""
    calls = {form: make() for form, make in built.items()}
    values = {form: float(call()[0]) for form, (call, _) in calls.items()}
    seconds = {form: [] for form in calls}
    for _ in range(turns):
        for form, (call, _) in calls.items():
            start = time.perf_counter()
            call()
            seconds[form].append(time.perf_counter() - start)
    median = {form: statistics.median(each) for form, each in seconds.items()}
    for form, (_, held) in calls.items():
        memory = "" if held is None else f"{held:.1f}"
        gathered = f"{median[form] / median['all-gather']:.2f}" if "all-gather" in median else ""
        other = f"{median[form] / median['PyTorch']:.2f}" if "PyTorch" in median and silent else ""
        print(f"| {name} | {form} | {memory} | {median[form]:.2f} | {gathered} | {other} |", flush=True)
    spread = max(values.values()) - min(values.values())
    assert spread <= 1e-4 * abs(values["ring"]), values
    return median["ring"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=16384)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--losses", default="InfoNCE,triplet hardest,sigmoid,DIAS, four terms")
    parser.add_argument("--no_torch", action="store_true")
    parser.add_argument("--peaks", action="store_true", help="memory of the process instead of times")
    parser.add_argument("--peak", metavar="LOSS/FORM", help="of one form, in this process")
    args = parser.parse_args()
    names = [name for name in (*PLAIN, "triplet knn", "DIAS, four terms") if name in args.losses]
    if args.peaks:
        return peaks(names, args)
    v, t = embeddings(args.batch, args.dim)
    if args.peak:
        name, form = args.peak.split("/")
        call, _ = forms(name, v, t, args.devices, True)[form]()
        print(f"{peak(call):.0f}")
        return None
    silent, share = quiet()
    print(
        f"B = {args.batch}, d = {args.dim}, {args.devices} devices; a product keeps {share:.2f} cores busy\n"
    )
    print("| loss | form | temporary MiB a device | seconds | times the all-gather | times PyTorch |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    rings = {}
    for name in names:
        rings[name] = times(name, forms(name, v, t, args.devices, not args.no_torch), args.turns, silent)
    if "DIAS, four terms" in rings and "InfoNCE" in rings:
        print(f"\nDIAS over ring InfoNCE: {rings['DIAS, four terms'] / rings['InfoNCE']:.2f}")
    if not silent:
        print("\nThe machine was not quiet: no ratios against PyTorch.")
    return None


if __name__ == "__main__":
    main()
