"""A study: rows of runs, each with its trials on one seed and its best trial on the others, in one table.

    python -m jax_itm study configs/study_f8k.py [--out runs/study_f8k] [--jobs 2] [--rows dias] [--seeds 0,1]

The file's `get_study()` gives a `Study`. A run is the two commands that a person would type, `train` and
`evaluate`, so each can be looked into, resumed and reported alone. Each that ends adds a line of JSON to
`OUT/runs.jsonl`; what has its line is not run again. `OUT/table.md` and `OUT/table.png` are the end, and
`OUT/differences.png` where rows name their base.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean
from types import MappingProxyType
from typing import Any, NamedTuple

from jax_itm.config.load import call
from jax_itm.errors import UserError
from jax_itm.evaluation.comparison import compare
from jax_itm.lock import locked
from jax_itm.plots.differences import Added, differences_figure, differences_table
from jax_itm.plots.report import report
from jax_itm.plots.runs import training_minutes
from jax_itm.storage import replacing


class Row(NamedTuple):
    """One line of the table."""

    name: str
    config: str  # FILE[:ARG]; "{ROW}" in it is the chosen run of an earlier row, of the same seed
    trials: Sequence[Mapping[str, Any]] = ({},)  # fields of the config: {"optimizer.lr": 1e-3}
    fields: Mapping[str, Any] = MappingProxyType({})  # of all its trials
    rerank: Sequence[str] = ()  # earlier rows; of those that ended the best, by mean, is re-ranked
    top_k: int = 10  # of its candidates
    first_weight: float = 0.0  # of its scores, which are added to this row's
    isd: bool = False  # a cross-encoder's
    shown: bool = True  # in the table, or only what another row starts from
    base: str = ""  # the earlier row that is the same without this row's terms; their difference is shown


class Study(NamedTuple):
    """What a study's file describes."""

    rows: Sequence[Row]
    split: str  # on which a row's trial is chosen, and the numbers are shown
    seeds: Sequence[int] = (0, 1, 2)  # trials are run on the first
    protocol: str = "full"  # of the evaluation (protocols.py)


class Task(NamedTuple):
    """One run: a row, one of its trials, a seed."""

    row: Row
    trial: int
    seed: int

    @property
    def key(self) -> str:
        """Its folder below the study's."""
        return f"{self.row.name}/{self.trial}-{self.seed}"


class Runner:
    """Runs tasks in folders below `out`, `jobs` at once, each on its share of the cores."""

    def __init__(self, study: Study, out: str | Path, jobs: int = 1):
        self.study = study
        self.out = Path(out)
        self.jobs = jobs
        self.done = read_lines(self.out / "runs.jsonl")
        self._lock = threading.Lock()
        self._cores: SimpleQueue[set[int]] = SimpleQueue()
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        for job in range(jobs):
            self._cores.put(set(cores[job::jobs]) or set(cores))

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
        first, *others = self.study.seeds
        for row in rows:
            if any(
                needed in rows and not self._ended(needed.name) for needed in map(self._named, needs(row))
            ):
                continue
            trials = [Task(row, trial, first) for trial in range(len(row.trials))]
            yield from trials
            if len(trials) == 1 or all(task.key in self.done for task in trials):
                yield from (Task(row, self.chosen(row), seed) for seed in others)

    def chosen(self, row: Row) -> int:
        """The trial of the highest rSum on the first seed."""
        if len(row.trials) == 1:
            return 0
        first = self.study.seeds[0]
        return max(range(len(row.trials)), key=lambda t: self.done[Task(row, t, first).key]["rsum"])

    def tasks(self, row: Row) -> list[Task]:
        """The chosen trial's, by seed."""
        return [Task(row, self.chosen(row), seed) for seed in self.study.seeds]

    def workdirs(self, row: Row) -> list[Path]:
        """Where these ran."""
        return [self.out / task.key for task in self.tasks(row)]

    def _one(self, task: Task) -> None:
        cores = self._cores.get()
        try:
            train, evaluate = self.commands(task)
            workdir = self.out / task.key
            workdir.parent.mkdir(parents=True, exist_ok=True)
            print(f"{task.key}: {' '.join(train[3:])}", flush=True)
            for command in (train, evaluate):
                _call(command, Path(f"{workdir}.log"), cores)
        finally:
            self._cores.put(cores)
        result = json.loads((workdir / "result.json").read_text())
        logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        known = {"run": task.key, "row": task.row.name, "trial": dict(task.row.trials[task.trial])}
        line = known | {"seed": task.seed, "minutes": training_minutes(logged)} | result
        with self._lock:
            self.done[task.key] = line
            with (self.out / "runs.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        print(f"{task.key}: rSum {result['rsum']:.1f}", flush=True)

    def commands(self, task: Task) -> tuple[list[str], list[str]]:
        """What a person would type: `train` and `evaluate` of one task."""
        row = task.row
        workdir = self.out / task.key
        start = [sys.executable, "-m", "jax_itm"]
        fields = {**row.fields, **row.trials[task.trial], "seed": task.seed, "name": row.name}
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
        first = self.study.seeds[0]
        trials = [Task(row, trial, first) for trial in range(len(row.trials))]
        known = lambda tasks: all(task.key in self.done for task in tasks)
        return known(trials) and known(self.tasks(row))

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
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {line["run"]: line for line in lines}


def _call(command: Sequence[str], log: Path, cores: set[int]) -> None:
    pin = (lambda: os.sched_setaffinity(0, cores)) if hasattr(os, "sched_setaffinity") else None
    with log.open("a") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, preexec_fn=pin).returncode
    if status:
        last = log.read_text().strip().splitlines()[-1:]
        raise UserError(f"{log}: {command[3]} ended with status {status}: {''.join(last)}")


def needs(row: Row) -> list[str]:
    """The rows whose runs this one starts from or re-ranks."""
    return [*re.findall(r"\{([^}]+)\}", row.config), *row.rerank]


def check(study: Study) -> None:
    """Raises UserError where a row names one that is not before it, or two have one name."""
    known: list[str] = []
    for row in study.rows:
        for name in (*needs(row), *filter(None, [row.base])):
            if name not in known:
                raise UserError(f"study: row {row.name!r} needs {name!r}, which is no earlier row")
        if row.name in known or not re.fullmatch(r"[\w.+-]+", row.name):
            raise UserError(f"study: row {row.name!r}: names are words, each of its own")
        known.append(row.name)


def trials_table(runner: Runner, rows: Sequence[Row]) -> str:
    """What was tried for each row on the first seed, the chosen one marked."""
    lines = ["| row | trial | rSum | minutes |", "| --- | --- | ---: | ---: |"]
    for row in rows:
        for trial, fields in enumerate(row.trials):
            result = runner.done[Task(row, trial, runner.study.seeds[0]).key]
            what = ", ".join(f"{name} {value}" for name, value in fields.items()) or "as the config"
            mark = " (chosen)" if trial == runner.chosen(row) and len(row.trials) > 1 else ""
            lines.append(f"| {row.name} | {what}{mark} | {result['rsum']:.1f} | {result['minutes']:.1f} |")
    return "\n".join(lines)


def parse_seeds(text: str) -> tuple[int, ...]:
    """The numbers of "0,1"; UserError where they are none, or one is there twice."""
    parts = [part for part in text.split(",") if part]
    if not all(part.isascii() and part.isdigit() for part in parts) or len({*map(int, parts)}) < len(parts):
        raise UserError(f"--seeds {text}: must be different whole numbers, such as 0,1")
    return tuple(map(int, parts))


def run_study(path: str, out: str, jobs: int, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> str:
    """Runs what is left of a study; returns its tables, which it also writes.

    Args:
        path: FILE[:ARG] with a `get_study`.
        out: the study's directory; no other study may use it meanwhile.
        jobs: runs at once.
        only: the rows to run and to show, in this order; all of them if empty.
        seeds: instead of the study's own; trials are run on the first.

    Raises:
        UserError: a row or a run is wrong.
    """
    study: Study = call(path, "get_study")
    study = study._replace(seeds=tuple(seeds) or study.seeds)
    check(study)
    names = [row.name for row in study.rows]
    if unknown := set(only) - set(names):
        raise UserError(f"--rows {sorted(unknown)[0]}: no such row; there are {', '.join(names)}")
    runner = Runner(study, out, jobs)
    rows = [next(row for row in study.rows if row.name == name) for name in only or names]
    with locked(out, "study"):
        runner.run(rows)
    shown = [row for row in rows if row.shown]
    figure = str(Path(out) / "table.png")
    main = report([str(w) for row in shown for w in runner.workdirs(row)], figure)
    parts = [main, trials_table(runner, rows)]
    if based := [added for row in shown if (added := runner.added(row))]:
        parts.insert(1, differences_table(based, len(study.seeds)))
        differences_figure(based, str(Path(out) / "differences.png"))
    text = "\n\n".join(parts) + "\n"
    (Path(out) / "table.md").write_text(text)
    return text
