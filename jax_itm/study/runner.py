"""Runs the tasks of a study as processes, each on its share of the machine; what has ended is kept."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean
from typing import Any, NamedTuple

from jax_itm.errors import UserError
from jax_itm.evaluation.comparison import compare
from jax_itm.plots.differences import Added
from jax_itm.plots.runs import training_minutes
from jax_itm.storage import json_lines, replacing
from jax_itm.study.plan import Row, Search, Study, Task, needs
from jax_itm.study.search import Drawn, validations

SECONDS_BETWEEN_LOOKS = 2.0  # at a run's validations


class Runner:
    """Runs tasks in folders below `out`, `jobs` at once, each on its share of the cores and GPUs.

    Raises:
        UserError: a run that has ended there had other fields.
    """

    def __init__(self, study: Study, out: str | Path, jobs: int = 1, gpus: Sequence[int] = ()):
        self.study = study
        self.out = Path(out)
        self.jobs = jobs
        self.done = read_lines(self.out / "runs.jsonl")
        self._lock = threading.Lock()
        self._shares: SimpleQueue[Share] = SimpleQueue()
        for share in shares(jobs, gpus):
            self._shares.put(share)
        self._drawn = {row.name: Drawn(row.trials) for row in study.rows if isinstance(row.trials, Search)}
        for row in study.rows:
            self._check_ended(row)

    def run(self, rows: Sequence[Row]) -> None:
        """Each row's trials on the first seed, its best on the others; later rows' runs fill idle cores."""
        started, running = set(self.done), set[Future[None]]()
        with ThreadPoolExecutor(self.jobs) as pool:
            while True:
                left = [task for task in self._ready(rows) if task.key not in started]
                for task in left[: self.jobs - len(running)]:
                    started.add(task.key)
                    running.add(pool.submit(self._one, task))
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()  # an error: what runs is waited for, and nothing more is started

    def _ready(self, rows: Sequence[Row]) -> Iterable[Task]:
        """What can be run by now, in the order of the rows."""
        others = self.study.seeds[1:]
        for row in rows:
            if any(
                needed in rows and not self._ended(needed.name) for needed in map(self._named, needs(row))
            ):
                continue
            trials = self._trials(row)
            yield from trials
            if len(trials) == 1 or all(task.key in self.done for task in trials):
                yield from (Task(row, self.chosen(row), seed) for seed in others)

    def chosen(self, row: Row) -> int:
        """The trial of the highest rSum on the first seed."""
        if row.count == 1:
            return 0
        ended = [self.done[task.key] for task in self._trials(row)]
        return max(range(row.count), key=lambda trial: ("pruned" not in ended[trial], ended[trial]["rsum"]))

    def trial_fields(self, task: Task) -> dict[str, Any]:
        """The fields of its trial, listed or drawn."""
        trials = task.row.trials
        return (
            self._drawn[task.row.name].fields(task.trial)
            if isinstance(trials, Search)
            else dict(trials[task.trial])
        )

    def _trials(self, row: Row) -> list[Task]:
        """Its trials, which are of the first seed."""
        return [Task(row, trial, self.study.seeds[0]) for trial in range(row.count)]

    def tasks(self, row: Row) -> list[Task]:
        """The chosen trial's, by seed."""
        return [Task(row, self.chosen(row), seed) for seed in self.study.seeds]

    def workdirs(self, row: Row) -> list[Path]:
        """Where these ran."""
        return [self.out / task.key for task in self.tasks(row)]

    def _one(self, task: Task) -> None:
        train, evaluate = self.commands(task)
        workdir = self.out / task.key
        workdir.parent.mkdir(parents=True, exist_ok=True)
        metrics, log = workdir / "metrics.jsonl", Path(f"{workdir}.log")
        print(f"{task.key}: {' '.join(train[3:])}", flush=True)
        share = self._shares.get()
        try:
            pruned = _call(train, log, share, lambda: self._is_hopeless(task, metrics))
            if not pruned:
                _call(evaluate, log, share)
        finally:
            self._shares.put(share)
        known = {"run": task.key, "row": task.row.name, "trial": self.trial_fields(task), "seed": task.seed}
        logged = [json.loads(line) for line in metrics.read_text().splitlines()]
        if pruned:
            step, rsum = max(validations(metrics).items())
            result = {"rsum": rsum, "pruned": step}
        else:
            result = json.loads((workdir / "result.json").read_text())
        self._end(task, known | {"minutes": training_minutes(logged)} | result)

    def _comparable(self, task: Task) -> Drawn | None:
        """The drawn trials that a run is compared with; None of listed ones, and of other seeds."""
        return self._drawn.get(task.row.name) if task.seed == self.study.seeds[0] else None

    def _is_hopeless(self, task: Task, metrics: Path) -> bool:
        drawn = self._comparable(task)
        with self._lock:
            return drawn is not None and drawn.is_hopeless(task.trial, metrics)

    def _end(self, task: Task, line: dict[str, Any]) -> None:
        """Keeps a run's line, and lets the row's later trials be compared with it."""
        with self._lock:
            with (self.out / "runs.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.done[task.key] = line
            self._compare_with(task, line)
        early = f", ended early at step {line['pruned']:,}" if "pruned" in line else ""
        print(f"{task.key}: rSum {line['rsum']:.1f}{early}", flush=True)

    def _compare_with(self, task: Task, line: Mapping[str, Any]) -> None:
        if drawn := self._comparable(task):
            drawn.end(task.trial, self.out / task.key / "metrics.jsonl", line["rsum"], "pruned" in line)

    def _check_ended(self, row: Row) -> None:
        """What has ended must be what the study describes now."""
        for trial in range(row.count):
            for seed in self.study.seeds:
                task = Task(row, trial, seed)
                line = self.done.get(task.key)
                if line is None:
                    continue
                now = json.loads(json.dumps(self.trial_fields(task)))
                if line["trial"] != now:
                    raise UserError(
                        f"{self.out}/runs.jsonl: {task.key} had {line['trial']}, the study says {now} now;"
                        " choose another --out, or delete that line and its folder"
                    )
                self._compare_with(task, line)

    def commands(self, task: Task) -> tuple[list[str], list[str]]:
        """What a person would type: `train` and `evaluate` of one task."""
        row = task.row
        workdir = self.out / task.key
        start = [sys.executable, "-m", "jax_itm"]
        fields = {**row.fields, **self.trial_fields(task), "seed": task.seed, "name": row.name}
        config = re.sub(r"\{([^}]+)\}", lambda m: str(self._of_seed(m[1], task.seed)), row.config)
        train = [*start, "train", "--config", config, "--workdir", str(workdir)]
        train += [f"--config.{name}={value}" for name, value in fields.items()]
        evaluate = [*start, "evaluate", "--workdir", str(workdir), "--split", self.study.split]
        evaluate += ["--out", str(workdir / "result.json")] + ["--isd"] * row.isd
        evaluate += ["--protocol", self.study.protocol] if self.study.protocol != "full" else []
        if row.rerank:
            ended = [name for name in row.rerank if self._ended(name)]
            if not ended:
                raise UserError(f"study: row {row.name!r} re-ranks {', '.join(row.rerank)}: none has ended")
            best = max(ended, key=self._mean)
            source = ["--rerank_from", str(self._of_seed(best, task.seed))]
            evaluate += ["--mode", "rerank", *source, "--top_k", str(row.top_k)]
            evaluate += ["--first_weight", str(row.first_weight)] * bool(row.first_weight)
        return train, evaluate

    def added(self, row: Row) -> Added | None:
        """What a row adds to its base; None if it has none, or that has not ended."""
        if not row.base or not self._ended(row.base):
            return None
        results = lambda row: [str(workdir / "result.json") for workdir in self.workdirs(row)]
        found = compare(results(self._named(row.base)), results(row))
        minutes = fmean(self.done[task.key]["minutes"] for task in self.tasks(row))
        return Added(row.name, row.base, found["rSum"], minutes)

    def _named(self, name: str) -> Row:
        return next(row for row in self.study.rows if row.name == name)

    def _ended(self, name: str) -> bool:
        row = self._named(name)
        known = lambda tasks: all(task.key in self.done for task in tasks)
        return known(self._trials(row)) and known(self.tasks(row))

    def _of_seed(self, name: str, seed: int) -> Path:
        row = self._named(name)
        if not self._ended(name):
            raise UserError(f"study: row {name!r} has not ended; another row needs it")
        return self.out / Task(row, self.chosen(row), seed).key

    def _mean(self, name: str) -> float:
        return fmean(self.done[task.key]["rsum"] for task in self.tasks(self._named(name)))


def read_lines(path: Path) -> dict[str, dict[str, Any]]:
    """The runs that ended, by folder; a line that a crash cut short is dropped, in the file too."""
    if not path.exists():
        return {}
    lines = json_lines(path)
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {line["run"]: line for line in lines}


class Share(NamedTuple):
    """What one run has of the machine."""

    cores: frozenset[int]
    environment: Mapping[str, str]


def shares(jobs: int, gpus: Sequence[int] = ()) -> list[Share]:
    """The machine in `jobs` parts.

    Args:
        jobs: runs at once.
        gpus: their numbers; a run sees its own part of them alone, or all if there are none to share out.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    seen = lambda job: {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus[job::jobs]))} if gpus else {}
    return [Share(frozenset(cores[job::jobs] or cores), seen(job)) for job in range(jobs)]


def _call(
    command: Sequence[str], log: Path, share: Share, is_hopeless: Callable[[], bool] = lambda: False
) -> bool:
    """Runs a command; returns whether it was ended because it was hopeless."""
    environment = os.environ | share.environment
    with log.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        with contextlib.suppress(AttributeError, ProcessLookupError):  # not on Linux; ended already
            # From outside: code of ours between fork and exec may wait for a lock for ever.
            os.sched_setaffinity(process.pid, share.cores)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(SECONDS_BETWEEN_LOOKS)
                    break
                if is_hopeless():
                    process.terminate()
                    process.wait()
                    return True
        except BaseException:  # Ctrl-C: it saves, and the same command goes on there
            process.terminate()
            process.wait()
            raise
    if status:
        last = log.read_text().strip().splitlines()[-1:]
        raise UserError(f"{log}: {command[3]} ended with status {status}: {''.join(last)}")
    return False
