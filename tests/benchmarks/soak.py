"""Whether a long run stays as it is: memory, open files and threads, and the time of a step.

Run by hand, on Linux: python tests/benchmarks/soak.py [--steps 10000] [--evaluate 500]

A tiny DIAS on random regions is trained by the command, `python -m jax_itm train`, with a validation
and a checkpoint every few steps. Its process is watched from outside, four times a second. A row is a
thousand steps: the median and the peak of its resident memory, the most open files and threads, and the
median time of a step. The slope of the memory is a least-squares line through all samples after the
first fifth of the run, which compiles and fills caches.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from memory import resident  # beside this file

ROOT = Path(__file__).parents[2]
IMAGES, REGIONS, SIZE = {"train": 400, "dev": 100}, 4, 16
CONFIG = """
from configs.dias_f8k import setting
from jax_itm.config import default

def get_config():
    config = setting(default("dias"))
    config.name, config.dim, config.batch_size = "soak", 32, 32
    config.text.word_dim, config.data.max_words, config.data.min_count = 16, 8, 1
    config.data.max_regions, config.evaluate.batch_size, config.log_every = 4, 50, 50
    return config
"""


class Sample(NamedTuple):
    """A process at a moment."""

    step: int
    memory: float  # resident, MiB
    files: int
    threads: int


def write_data(folder: Path) -> None:
    """Random regions and captions of eight words out of a hundred, in SCAN's layout."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, images in IMAGES.items():
        np.save(folder / f"{split}_ims.npy", rng.normal(size=(images, REGIONS, SIZE)).astype(np.float16))
        words = rng.integers(100, size=(5 * images, 8))
        lines = (" ".join(f"w{word}" for word in row) for row in words)
        (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n")


def logged(workdir: Path) -> list[dict[str, float]]:
    """The log lines of training so far; the last may be half-written."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [line for line in map(json.loads, lines) if "train/loss" in line]


def watch(process: subprocess.Popen, workdir: Path) -> Iterator[Sample]:
    """The process until it ends."""
    here = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        try:
            files, threads = (len(list((here / part).iterdir())) for part in ("fd", "task"))
            memory = resident("VmRSS", process.pid)
        except (OSError, StopIteration):  # it ended just now
            break
        if lines := logged(workdir):
            yield Sample(int(lines[-1]["step"]), memory, files, threads)
        time.sleep(0.25)


def run(place: Path, steps: int, evaluate: int) -> tuple[list[Sample], list[dict[str, float]]]:
    """Trains; what was seen, and what was logged."""
    write_data(place / "raw")
    (place / "soak.py").write_text(CONFIG)
    command, data = [sys.executable, "-m", "jax_itm"], f"{place}/data"
    source = ["--source", f"{place}/raw"]
    subprocess.run([*command, "prepare", "precomp", *source, "--data_dir", data], cwd=ROOT, check=True)
    train = [*command, "train", "--config", f"{place}/soak.py", "--workdir", f"{place}/run"]
    train += [f"--config.data.data_dir={data}", f"--config.duration={steps} steps"]
    with (place / "log").open("w") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [*train, f"--config.evaluate.every={evaluate} steps"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        samples = list(watch(process, place / "run"))
    if process.wait():
        sys.exit((place / "log").read_text())
    return samples, logged(place / "run")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--evaluate", type=int, default=500, help="validate and save after so many steps")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        samples, lines = run(Path(place), args.steps, args.evaluate)
    print("| steps | MiB, median | MiB, peak | open files | threads | ms a step |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for start in range(0, args.steps, 1000):
        end = start + 1000
        seen = [s for s in samples if start < s.step <= end]
        memory, files = [s.memory for s in seen], max(s.files for s in seen)
        times = [line["train/step_seconds"] for line in lines if start < line["step"] <= end]
        print(
            f"| {end:,} | {np.median(memory):,.0f} | {max(memory):,.0f} | {files}"
            f" | {max(s.threads for s in seen)} | {1000 * np.median(times):.1f} |"
        )
    settled = [s for s in samples if s.step > args.steps / 5]
    slope = np.polyfit([s.step / 1000 for s in settled], [s.memory for s in settled], 1)[0]
    print(f"\n{len(settled):,} samples after step {args.steps // 5:,}: {slope:+.2f} MiB a 1,000 steps")


if __name__ == "__main__":
    main()
