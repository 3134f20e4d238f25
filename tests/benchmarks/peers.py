"""Training steps and forward passes against the same models in PyTorch, on CPUs, in float32.

Run by hand, on a quiet machine, with an interpreter that has PyTorch, which this project's has not:

    python3 -m venv PEER && PEER/bin/pip install torch==2.13.0 transformers numpy
    python tests/benchmarks/peers.py --peer_python PEER/bin/python [--turns 7] [--only iais]

Both sides have the same weights and batch, which the peer (peers_torch.py) reads from a file, and all cores;
each is a process that lives through all turns, and one waits while the other works. Medians of their
seconds. `loss apart` is the largest relative difference of the losses of the first `COMPARED` turns: where
turns are updates, the second and third losses also compare gradients and optimizers. Dropout is off.

`vse`: a VSE-infinity model in Flickr30k's setting, 36 regions of 2,048, BiGRU, GPO, d = 1024, batch 128, the
hardest triplet, clipping and AdamW; its captions have 6 to 40 words as Flickr30k's, 12 in the mean, padded
to 64 here and packed there, or 64 words all. `uniter`: UNITER base, scores of 32 pairs of 32 words and 36
regions. `iais`: one update of it, 2 anchors each way in a pool of 32 and their 7 hardest. `towers`: ViT-B/16
and BERT base, InfoNCE of 16 pictures of 224 x 224 and 32 words, forward and backward.

On a busy machine, `taskset -c 1` with `--cpu` measures processor time on one core instead.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jax_itm import losses
from jax_itm.checkpoint.state import init_state
from jax_itm.config import Facts
from jax_itm.config.load import default
from jax_itm.distributed.mesh import make_mesh, per_device, shard_local_batch
from jax_itm.methods import build, example_batch
from jax_itm.models.build import encoder
from jax_itm.pretrained.hf_families import FAMILIES
from jax_itm.pretrained.mapper import published_shape
from jax_itm.train import step
from jax_itm.train.optimizer import build as build_optimizer

VOCABULARY, EXAMPLES, REGION_DIM, BOXES = 8_000, 145_000, 2048, 4
COMPARED = 3


class Work(NamedTuple):
    """One side's work, and what the other side needs for the same.

    Attributes:
        call: a turn; returns the loss, or the sum of the scores.
        weights: by the names that they have in PyTorch.
        batch: the inputs.
    """

    call: Callable[[], Any]
    weights: dict[str, np.ndarray]
    batch: dict[str, np.ndarray]


# PyTorch's names and layouts of our parameters.

GRU = {
    "weight_ih_l0": "forward/input/kernel",
    "weight_hh_l0": "forward/recurrent",
    "bias_ih_l0": "forward/input/bias",
    "bias_hh_l0": "forward/recurrent_bias",
    "weight_ih_l0_reverse": "backward/input/kernel",
    "weight_hh_l0_reverse": "backward/recurrent",
    "bias_ih_l0_reverse": "backward/input/bias",
    "bias_hh_l0_reverse": "backward/recurrent_bias",
}
GPO = {f"gru.{name}": f"gru/{path}" for name, path in GRU.items()} | {
    "linear.weight": "score/kernel",
}
VSE = {
    "words.weight": "text/words/embedding",
    **{f"gru.{name}": f"text/gru/{path}" for name, path in GRU.items()},
    "fc.weight": "image/projection/linear/kernel",
    "fc.bias": "image/projection/linear/bias",
    "mlp.0.weight": "image/projection/mlp/hidden/kernel",
    "mlp.0.bias": "image/projection/mlp/hidden/bias",
    "mlp.2.weight": "image/projection/mlp/out/kernel",
    "mlp.2.bias": "image/projection/mlp/out/bias",
    **{
        f"{side}_pool.{name}": f"{side}/gpo/{path}"
        for side in ("image", "text")
        for name, path in GPO.items()
    },
}


def published(params, names: dict[str, str]) -> dict[str, np.ndarray]:
    """Our parameters as PyTorch has them."""
    flat = {path: np.asarray(x) for path, x in flatten_dict(params, sep="/").items()}
    return {name: _to_torch(path, flat[path]) for name, path in names.items()}


def _to_torch(path: str, x: np.ndarray) -> np.ndarray:
    if path.endswith("/recurrent"):
        return x.T
    shape = published_shape(path, x.shape)
    if not path.endswith("/kernel"):
        return x.reshape(shape)
    return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.reshape(shape[::-1]).T


# Batches.


def region_batch(config, lengths: np.ndarray):
    """Random regions, boxes and captions of so many words, all rows of different images."""
    rng = np.random.default_rng(0)
    rows = len(lengths)
    words = config.data.max_words
    regions = config.data.max_regions
    corners = np.sort(rng.random((rows, regions, 2, BOXES // 2), np.float32), axis=2)
    image = {
        "regions": rng.standard_normal((rows, regions, REGION_DIM), np.float32).astype(np.float16),
        "boxes": corners.reshape(rows, regions, BOXES),
        "mask": np.ones((rows, regions), bool),
    }
    mask = np.arange(words) < lengths[:, None]
    ids = np.where(mask, rng.integers(4, VOCABULARY, mask.shape), 0).astype(np.int32)
    return {"image": image, "text": {"ids": ids, "mask": mask}, "image_id": np.arange(rows, dtype=np.int32)}


def caption_lengths(rows: int) -> np.ndarray:
    """Words as in Flickr30k's captions: 6 to 40, 12 in the mean."""
    lengths = np.random.default_rng(1).gamma(4.0, 3.2, rows)
    return np.clip(np.round(lengths), 6, 40).astype(int)


def flat_batch(batch) -> dict[str, np.ndarray]:
    """The arrays of a batch by name."""
    return {name: np.asarray(x) for name, x in flatten_dict(batch, sep=".").items()}


# Works.


def updates(config, batch, names: dict[str, str]) -> Work:
    """Training steps of the method of `config` on one batch."""
    config.optimizer.schedule = "constant"
    mesh, facts = make_mesh(1), Facts(region_dim=REGION_DIM, vocab=VOCABULARY)
    method = build(config, facts, EXAMPLES)
    with jax.set_mesh(mesh):
        params = jax.jit(method.init)(jax.random.key(0), example_batch(config, facts))
        weights = published(params, names)
        optimizer, _ = build_optimizer(config, params, 5_000, EXAMPLES)
        states = [init_state(params, optimizer, False, mesh)]  # an update takes the memory of the one before
        update = step.train_step(method, optimizer, mesh, config.seed, 0.0)
        inputs = shard_local_batch(mesh, batch)
        signal = per_device(mesh, 0)

    def call():
        with jax.set_mesh(mesh):
            states[0], terms, _ = update(states[0], inputs, signal)
            return terms["loss"]

    return Work(call, weights, flat_batch(batch))


def vse(lengths: np.ndarray) -> Work:
    config = default("vsepp")
    config.losses.triplet.sum_for = "0 epochs"  # the hardest from the start
    config.image.drop = config.text.drop = 0.0
    config.data.max_words = 64
    return updates(config, region_batch(config, lengths), VSE)


def uniter_config():
    config = default("iais")
    config.data.max_words, config.uniter.dropout = 32, 0.0
    return config


def uniter() -> Work:
    """Scores of 32 pairs."""
    config, facts = uniter_config(), Facts(region_dim=REGION_DIM, vocab=VOCABULARY)
    batch = region_batch(config, np.full(32, 32))
    method = build(config, facts)
    params = jax.jit(method.init)(jax.random.key(0), example_batch(config, facts))
    inputs = jax.device_put({side: batch[side] for side in ("image", "text")})
    score = jax.jit(lambda params, batch: method.model.apply({"params": params}, batch).sum())
    weights = published(params, uniter_names(config))
    return Work(lambda: score(params, inputs), weights, flat_batch(batch))


def uniter_names(config) -> dict[str, str]:
    return FAMILIES["pair"]["uniter"].names({"layers": config.uniter.layers})


def iais() -> Work:
    """An update in a small pool: in the paper's counts it is 6,400 pairs and 512 with gradient."""
    config = uniter_config()
    config.batch_size = config.mining.pool = config.mining.tile = 32
    config.mining.anchors, config.mining.hardest = 2, 7
    config.optimizer.lr = 5e-5
    config.duration = "5000 steps"
    return updates(config, region_batch(config, np.full(32, 32)), uniter_names(config))


ARCHITECTURES = {
    "image": dict(kind="vit", layers=12, heads=12, width=768, patch=16, image_size=224, act="gelu"),
    "text": dict(kind="bert", layers=12, heads=12, width=768, vocab=30_522, positions=512),
}


def towers() -> Work:
    """Loss and gradient of two pretrained encoders, on their own summary tokens."""
    config = default("info_nce")
    config.dim = 512
    for side in ("image", "text"):
        config[side].name, config[side].pooling = "pretrained", "cls"
    config.text.dropout = 0.0
    vit = ARCHITECTURES["image"] | dict(norm_eps=1e-12, class_token=True)
    facts = Facts(image_architecture=ConfigDict(vit), text_architecture=ConfigDict(ARCHITECTURES["text"]))
    modules = {side: encoder(config, facts, side) for side in ("image", "text")}
    rng = np.random.default_rng(0)
    batch = {
        "image": {"pixels": rng.integers(0, 256, (16, 224, 224, 3), np.uint8)},
        "text": {"ids": rng.integers(0, 30_522, (16, 32), np.int32), "mask": np.ones((16, 32), bool)},
    }
    inputs = jax.device_put(batch)
    init = lambda side: jax.jit(modules[side].init)(jax.random.key(0), inputs[side])["params"]
    params = {side: init(side) for side in modules}

    def loss(params, batch):
        v, t = (modules[side].apply({"params": params[side]}, batch[side]).embedding for side in modules)
        return losses.info_nce(v, t, scale=20.0)

    weights = {}
    for side, module in ARCHITECTURES.items():
        names = {
            f"{side}.{name}": f"{side}/backbone/{path}"
            for name, path in FAMILIES[side][module["kind"]].names(module).items()
        }
        head = {
            f"{side}_head.weight": f"{side}/projection/linear/kernel",
            f"{side}_head.bias": f"{side}/projection/linear/bias",
        }
        weights |= published(params, names | head)
    gradient = jax.jit(jax.value_and_grad(loss))
    mesh = make_mesh(1)

    def call():
        with jax.set_mesh(mesh):
            return jax.block_until_ready(gradient(params, inputs))[0]

    return Work(call, weights, flat_batch(batch))


WORKS = {
    "vse": ("training step, captions of 6 to 40 words", lambda: vse(caption_lengths(128))),
    "vse_64": ("training step, captions of 64 words", lambda: vse(np.full(128, 64))),
    "uniter": ("UNITER base, forward of 32 pairs", uniter),
    "iais": ("IAIS update, UNITER base", iais),
    "towers": ("ViT-B/16 and BERT base, forward and backward", towers),
}


class Peer:
    """The process of the other side: a line in, a turn, a line with its loss and seconds out."""

    def __init__(self, python: str, name: str, work: Work, folder: str, cpu: bool):
        arrays = {f"weights/{key}": x for key, x in work.weights.items()}
        arrays |= {f"batch/{key}": x for key, x in work.batch.items()}
        np.savez(Path(folder) / "shared.npz", **arrays)
        script = Path(__file__).with_name("peers_torch.py")
        command = [python, str(script), name, str(Path(folder) / "shared.npz"), *["--cpu"] * cpu]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()  # it is ready

    def _read(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer ended with status {self._process.wait()}")
        return line

    def turn(self) -> tuple[float, float]:
        """Its loss and seconds."""
        self._process.stdin.write("turn\n")
        self._process.stdin.flush()
        loss, seconds = map(float, self._read().split())
        return loss, seconds

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def own_turn(work: Work, clock: Callable[[], float]) -> tuple[float, float]:
    start = clock()
    loss = jax.block_until_ready(work.call())
    return float(loss), clock() - start


def compare(name: str, title: str, args) -> str:
    """A row of the table."""
    work = WORKS[name][1]()
    clock = time.process_time if args.cpu else time.perf_counter
    seconds, apart = [], []
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(args.peer_python, name.split("_")[0], work, folder, args.cpu)
        for turn in range(args.turns + 1):
            (ours, own_seconds), (theirs, peer_seconds) = own_turn(work, clock), peer.turn()
            if turn < COMPARED:
                apart.append(abs(ours - theirs) / abs(theirs))
            if turn:  # the first compiles
                seconds.append((own_seconds, peer_seconds))
        peer.close()
    own, other = (statistics.median(side) for side in zip(*seconds, strict=True))
    return f"| {title} | {own:.3f} | {other:.3f} | {own / other:.2f} | {max(apart):.0e} |"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer_python", required=True, metavar="PATH", help="an interpreter with PyTorch")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--only", choices=WORKS, action="append", help="this row; may be given again")
    parser.add_argument("--cpu", action="store_true", help="processor time instead of wall-clock")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f}, medians of {args.turns} turns\n")
    print("| work | ours, s | peer, s | ratio | loss apart |\n| --- | ---: | ---: | ---: | ---: |")
    for name in args.only or WORKS:
        print(compare(name, WORKS[name][0], args), flush=True)


if __name__ == "__main__":
    main()
