"""A study from its file to its tables."""

from collections.abc import Sequence
from pathlib import Path

from jax_itm.config.load import call
from jax_itm.errors import UserError
from jax_itm.lock import locked
from jax_itm.plots.differences import differences_figure, differences_table
from jax_itm.plots.report import report
from jax_itm.study.plan import Row, Study, Task, check
from jax_itm.study.runner import Runner


def run_study(
    path: str,
    out: str,
    jobs: int,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    gpus: Sequence[int] = (),
) -> str:
    """Runs what is left of a study; returns its tables, which it also writes.

    Args:
        path: FILE[:ARG] with a `get_study`.
        out: the study's directory; no other study may use it meanwhile.
        jobs: runs at once.
        only: the rows to run and to show, in this order; all of them if empty.
        seeds: instead of the study's own; trials are run on the first.
        gpus: the numbers of those that the jobs share out; all jobs see all if empty.

    Raises:
        UserError: a row or a run is wrong.
    """
    study: Study = call(path, "get_study")
    study = study._replace(seeds=tuple(seeds) or study.seeds)
    check(study)
    names = [row.name for row in study.rows]
    if unknown := set(only) - set(names):
        raise UserError(f"--rows {sorted(unknown)[0]}: no such row; there are {', '.join(names)}")
    if gpus and jobs > len(gpus):
        raise UserError(f"--jobs {jobs}: more than the {len(gpus)} of --gpus; each run needs one")
    rows = [next(row for row in study.rows if row.name == name) for name in only or names]
    with locked(out, "study"):
        runner = Runner(study, out, jobs, gpus)
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


def trials_table(runner: Runner, rows: Sequence[Row]) -> str:
    """What was tried for each row on the first seed, the chosen one marked."""
    lines = ["| row | trial | rSum | minutes |", "| --- | --- | ---: | ---: |"]
    for row in rows:
        for trial in range(row.count):
            task = Task(row, trial, runner.study.seeds[0])
            result = runner.done[task.key]
            fields = runner.trial_fields(task).items()
            show = lambda value: f"{value:.3g}" if isinstance(value, float) else value
            what = ", ".join(f"{name} {show(value)}" for name, value in fields) or "as the config"
            mark = " (chosen)" if trial == runner.chosen(row) and row.count > 1 else ""
            mark = f" (ended early at step {result['pruned']:,})" if "pruned" in result else mark
            lines.append(f"| {row.name} | {what}{mark} | {result['rsum']:.1f} | {result['minutes']:.1f} |")
    return "\n".join(lines)
