"""What a run says: a progress bar, `metrics.jsonl`, TensorBoard scalars, its clock, the collapse alarm."""

import json
import math
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from jax_itm.storage import Growing
from jax_itm.types import Batch

QUIET_SECONDS = 10.0  # between progress lines where the output is no terminal


class Logger:
    """Writes scalars of training and validation; on the main process only.

    A resumed run goes on in the same files: lines past `first_step` are dropped first, since those
    steps are taken again.
    """

    def __init__(self, workdir: str, total_steps: int, first_step: int = 0, is_main: bool = True):
        self.total, self.is_main = total_steps, is_main
        self._start, self._first, self._last_line = time.monotonic(), first_step, -math.inf
        self._console = Console(highlight=False, soft_wrap=True)
        self._live = is_main and sys.stdout.isatty()
        self._bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=first_step)
        if not is_main:
            return
        self._files = Growing(workdir)
        path = self._files.fetch("metrics.jsonl")
        _keep_until(path, first_step)
        self._jsonl = path.open("a")
        self._tensorboard = SummaryWriter(str(self._files.path / "tensorboard"), purge_step=first_step + 1)

    def __enter__(self) -> "Logger":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()
        if self.is_main:
            self._jsonl.close()
            self._tensorboard.close()
            self._files.keep()

    def train(self, step: int, scalars: dict[str, float]) -> None:
        """Logs scalars of a training step and moves the bar to it."""
        self._write(step, "train", scalars)
        text = f"loss {scalars['loss']:.4g}, {1000 * scalars['step_seconds']:.0f} ms/step"
        self._bar.update(self._task, completed=step, description=text)
        now = time.monotonic()
        if self.is_main and not self._live and now - self._last_line >= QUIET_SECONDS:
            self._last_line = now
            each = (now - self._start) / (step - self._first)
            left = timedelta(seconds=round(each * (self.total - step)))
            self._console.print(f"step {step}/{self.total}, {text}, {left} left")

    def evaluation(self, step: int, scalars: dict[str, float]) -> None:
        """Logs and prints scalars of a validation; a bucket's files are brought up to date."""
        self._write(step, "val", scalars)
        if self.is_main:
            self._tensorboard.flush()
            self._files.keep()
        i2t, t2i = scalars["i2t/r1"], scalars["t2i/r1"]
        self.message(f"step {step}: validation rSum {scalars['rsum']:.1f}, R@1 i2t {i2t:.1f}, t2i {t2i:.1f}")

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        if self.is_main:
            self._console.print(text)

    def _write(self, step: int, prefix: str, scalars: dict[str, float]) -> None:
        if not self.is_main:
            return
        named = {f"{prefix}/{name}": float(value) for name, value in scalars.items()}
        for name, value in named.items():
            self._tensorboard.add_scalar(name, value, step)
        line = {k: v if math.isfinite(v) else None for k, v in named.items()}
        self._jsonl.write(json.dumps({"step": step} | line) + "\n")
        self._jsonl.flush()


def _keep_until(path: Path, step: int) -> None:
    """Drops the lines after `step`, and a last line that a crash cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            break
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(path)


class Clock:
    """Seconds a step, and the share of the time in which no batch was ready."""

    def __init__(self, step: int):
        self.start(step)

    def start(self, step: int) -> None:
        """Forgets what was before `step`."""
        self._step, self._since, self._waited = step, time.perf_counter(), 0.0

    def next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, the wait for it counted."""
        asked = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - asked
        return batch

    def read(self, step: int) -> tuple[float, float]:
        """Seconds of each step since `start` to `step`, and the share of waiting; starts anew."""
        spent = time.perf_counter() - self._since
        seconds, share = spent / (step - self._step), self._waited / spent
        self.start(step)
        return seconds, share


class CollapseAlarm:
    """Says once that a triplet loss sits on its collapse plateau.

    When all embeddings are one point every hinge is the margin, and its gradient is nearly zero. The
    hinge alone does not tell: near negatives, well chosen, keep it close to the margin too.
    """

    def __init__(self, margin: float, patience: int = 25):
        self.margin, self.patience, self._seen = margin, patience, 0

    def update(self, hinge: float, gap: float) -> str | None:
        """Takes the mean hinge of an anchor and `losses.gap` at a log point; returns the warning."""
        at_plateau = self.margin > 0 and abs(hinge - self.margin) <= 0.05 * self.margin and gap < 0.02
        self._seen = self._seen + 1 if at_plateau else 0
        if self._seen != self.patience:
            return None
        return (
            f"warning: the triplet loss has sat at its margin, {self.margin}, for {self.patience} log"
            " points: all embeddings have become one. Try a lower config.optimizer.lr, a longer"
            " config.optimizer.warmup, or all negatives first (config.method.sum_for)"
        )
