"""What a run reports: a progress bar, `metrics.jsonl`, TensorBoard scalars, pace, and a collapse alarm."""

import json
import math
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from jax_itm.storage import AppendableFolder, json_lines, replacing
from jax_itm.train.wandb_log import open_wandb
from jax_itm.types import Batch, Config

LINE_SECONDS = 10.0  # between progress lines if the output is no terminal


class Logger:
    """Writes the scalars of training and validation, on the main process only.

    A resumed run appends to the same files. Lines after `first_step` are dropped first, because those steps
    are repeated. A `config` may also ask for a record at Weights & Biases (`config.log`).
    """

    def __init__(
        self,
        workdir: str,
        total_steps: int,
        first_step: int = 0,
        is_main: bool = True,
        config: Config | None = None,
    ):
        self.total_steps = total_steps
        self.is_main = is_main
        self._start = time.monotonic()
        self._first_step = first_step
        self._last_line = -math.inf
        self._console = Console(highlight=False, soft_wrap=True)
        self._has_bar = is_main and sys.stdout.isatty()
        self._bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self._console,
            disable=not self._has_bar,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=first_step)
        if not is_main:
            return
        self._files = AppendableFolder(workdir)
        path = self._files.fetch("metrics.jsonl")
        _drop_lines_after(path, first_step)
        self._jsonl = path.open("a")
        self._wandb = open_wandb(config, self._files.path)
        self._tensorboard = SummaryWriter(str(self._files.path / "tensorboard"), purge_step=first_step + 1)

    def __enter__(self) -> "Logger":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self.is_main:
            self._jsonl.close()
            self._tensorboard.close()
            if self._wandb:
                self._wandb.close()
            self._files.sync()

    def train(self, step: int, scalars: dict[str, float]) -> None:
        """Logs the scalars of a training step and moves the bar to it."""
        self._write(step, "train", scalars)
        pace = f", {1000 * scalars['step_seconds']:.0f} ms/step" if "step_seconds" in scalars else ""
        text = f"loss {scalars['loss']:.4g}{pace}"
        self._bar.update(self._task, completed=step, description=text)
        now = time.monotonic()
        if self.is_main and not self._has_bar and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            seconds_per_step = (now - self._start) / (step - self._first_step)
            left = timedelta(seconds=round(seconds_per_step * (self.total_steps - step)))
            self._console.print(f"step {step}/{self.total_steps}, {text}, {left} left")

    def evaluation(self, step: int, scalars: dict[str, float]) -> None:
        """Logs and prints the scalars of a validation; copies the files if they belong in a bucket."""
        self._write(step, "val", scalars)
        if self.is_main:
            self._tensorboard.flush()
            self._files.sync()
        i2t = scalars["i2t/r1"]
        t2i = scalars["t2i/r1"]
        self.message(f"step {step}: validation rSum {scalars['rsum']:.1f}, R@1 i2t {i2t:.1f}, t2i {t2i:.1f}")

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        if self.is_main:
            self._console.print(text)

    def _write(self, step: int, prefix: str, scalars: dict[str, float]) -> None:
        if not self.is_main:
            return
        values = {f"{prefix}/{name}": float(value) for name, value in scalars.items()}
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.write(step, values)
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._jsonl.write(json.dumps({"step": step} | finite) + "\n")
        self._jsonl.flush()


def _drop_lines_after(path: Path, step: int) -> None:
    """Drops the lines after `step`, and a last line that a crash cut short."""
    if not path.exists():
        return
    kept = [json.dumps(line) + "\n" for line in json_lines(path) if line["step"] <= step]
    with replacing(path) as partial:
        partial.write_text("".join(kept))


class Pace(NamedTuple):
    """How fast a run trains.

    Attributes:
        step_seconds: mean time of a step.
        data_wait_fraction: fraction of that time spent waiting for data.
    """

    step_seconds: float
    data_wait_fraction: float


class Clock:
    """Measures the pace of the steps since `start`."""

    def __init__(self, step: int):
        self.start(step)

    def restart(self, step: int) -> float:
        """Measures from `step` on; returns the seconds since the last start, which nothing else will tell."""
        elapsed = time.perf_counter() - self._since
        self.start(step)
        return elapsed

    def start(self, step: int) -> None:
        """Measures from `step` on."""
        self._step = step
        self._since = time.perf_counter()
        self._waited = 0.0

    def next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; the wait for it is counted."""
        before = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - before
        return batch

    def read(self, step: int) -> Pace | None:
        """The pace since `start` up to `step`, and starts again; None if no step has been made since."""
        if step == self._step:
            return None
        elapsed = time.perf_counter() - self._since
        pace = Pace(elapsed / (step - self._step), self._waited / elapsed)
        self.start(step)
        return pace


class CollapseAlarm:
    """Warns once that a triplet loss stays at its collapse plateau.

    When all embeddings have become one point, every hinge equals the margin, and its gradient is nearly zero.
    The hinge alone does not show this: well-chosen near negatives keep it close to the margin as well.
    """

    def __init__(self, margin: float, patience: int = 25):
        self.margin = margin
        self.patience = patience
        self._count = 0

    def update(self, hinge: float, gap: float) -> str | None:
        """The warning, if it is time for it.

        Args:
            hinge: the mean hinge of an anchor at a log point.
            gap: `losses.score_gap` at the same point.
        """
        at_plateau = self.margin > 0 and abs(hinge - self.margin) <= 0.05 * self.margin and gap < 0.02
        self._count = self._count + 1 if at_plateau else 0
        if self._count != self.patience:
            return None
        return (
            f"warning: the triplet loss has stayed at its margin, {self.margin}, for {self.patience} log"
            " points: all embeddings have collapsed to one. Try a lower config.optimizer.lr, a longer"
            " config.optimizer.warmup, or start with all negatives (config.losses.triplet.sum_for)"
        )
