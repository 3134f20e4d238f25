"""The report of finished runs: their table, and a figure of loss terms, validation and recall."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from jax_itm.plots import figures, tables
from jax_itm.plots.figures import Number, Style
from jax_itm.plots.runs import Run, read_run

WEIGHTED = "train/weighted/"
ISD = {"val/isd/isda": "ISDa", "val/isd/singular": "ISD"}  # the first that a run has is drawn
BAR_LABELS = 3  # more bars have no room for their numbers

Points = list[tuple[Number, Number]]


class Bar(NamedTuple):
    """One bar for each recall."""

    label: str  # one that begins with "_" is left out of the legend
    recalls: list[float]
    color: str
    hatch: str


def report(workdirs: Sequence[str], out: str) -> str:
    """Draws runs into one figure and returns their table.

    Args:
        workdirs: runs with what `train` and `evaluate` wrote.
        out: the figure, a .png.

    Raises:
        UserError: a file is missing, or is not what `train` or `evaluate` wrote.
    """
    figures.check_png(out)
    runs = [read_run(workdir) for workdir in workdirs]
    name_apart(runs)
    draw(runs, out)
    return tables.table([run.result for run in runs])


def name_apart(runs: Sequence[Run]) -> None:
    """Adds the directory to the names of runs of one name that differ in more than their seed."""
    for same_name in tables.group_by(runs, lambda run: run.result["protocol"]["run"]):
        if any(run.config != same_name[0].config for run in same_name):
            for run in same_name:
                run.result["protocol"]["run"] += f", {run.workdir}"


def draw(runs: Sequence[Run], out: str) -> None:
    """Weighted loss terms of the first run, validation rSum, and recalls, side by side.

    A row of the table has one colour: a curve for each seed, and bars of the means. If runs logged ISD it is
    bars against rSum, with one point for each validation, later ones larger.
    """
    groups = tables.group_by(runs, lambda run: tables.setting(run.result))
    isd = next((key for key in ISD for run in runs if any(key in line for line in run.lines)), None)
    panels = 4 if isd else 3
    figure = figures.new_figure(1 + 4 * panels, 4.2)
    axes = list(figure.subplots(1, panels))
    _draw_losses(axes[0], runs[0])
    _draw_validation(axes[1], groups)
    if isd:
        _draw_isd(axes[2], groups, isd)
    draw_recalls(axes[-1], groups)
    for panel in axes:
        figures.hide_frame(panel)
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=4, frameon=False, fontsize=8)
    figures.save_figure(figure, out)


def _draw_losses(axes: Axes, run: Run) -> None:
    terms = sorted({key for line in run.lines for key in line if key.startswith(WEIGHTED)})
    values = []
    for k, term in enumerate(terms):
        points = _points(run, "step", term)
        _draw_curve(axes, points, figures.style(k), label=term.removeprefix(WEIGHTED))
        values += [value for _, value in points]
    axes.set(title=f"weighted loss terms, {run.result['protocol']['run']}", xlabel="step")
    figures.scale_values(axes, values)
    if terms:
        axes.legend(frameon=False, fontsize=8)


def _draw_validation(axes: Axes, groups: Sequence[Sequence[Run]]) -> None:
    for k, group in enumerate(groups):
        for run in group:
            _draw_curve(axes, _points(run, "step", "val/rsum"), figures.style(k), marker="o")
    axes.set(title="validation rSum", xlabel="step")


def _draw_isd(axes: Axes, groups: Sequence[Sequence[Run]], key: str) -> None:
    for k, group in enumerate(groups):
        style = figures.style(k)
        for run in group:
            points = _points(run, key, "val/rsum")
            _draw_curve(axes, points, style, linewidth=0.8)
            for number, point in enumerate(points):
                size = 3 + 5 * number / len(points)
                axes.plot(*point, "o", color=style.color, markersize=size)
    axes.set(title=f"{ISD[key]} against rSum, validation", xlabel=ISD[key], ylabel="rSum")


def draw_recalls(axes: Axes, groups: Sequence[Sequence[Run]]) -> None:
    """The recalls of each row of the table and of its baselines, as bars."""
    bars = []
    for k, group in enumerate(groups):
        results = [run.result for run in group]
        style = figures.style(k)
        bars.append(Bar(tables.title(results[0]), tables.mean_recalls(results), style.color, style.hatch))
        for j, baseline in enumerate(tables.baselines(results)):
            label = baseline[0]["name"] if k == 0 else "_"  # once in the legend
            bars.append(Bar(label, tables.mean_recalls(baseline), figures.GREYS[j % len(figures.GREYS)], ""))
    width = 0.8 / len(bars)
    for k, bar in enumerate(bars):
        offset = (k - (len(bars) - 1) / 2) * width
        centres = [place + offset for place in range(len(tables.RECALLS))]
        frame = {"edgecolor": "white", "linewidth": 0.3}
        drawn = axes.bar(
            centres, bar.recalls, width, label=bar.label, color=bar.color, hatch=bar.hatch, **frame
        )
        if len(bars) <= BAR_LABELS:
            axes.bar_label(drawn, fmt=bar_label, fontsize=7)
    names = [f"{direction}\nR@{name[1:]}" for direction, name in tables.RECALLS]
    axes.set_xticks(range(len(names)), names)
    protocol = groups[0][0].result["protocol"]
    axes.set(title=f"recall on {protocol['dataset']} {protocol['split']}", ylabel="%")


def bar_label(value: float) -> str:
    """A recall above its bar: small ones need their decimal, large ones have no room for it."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _points(run: Run, x: str, y: str) -> Points:
    """The lines of a log that have both values; null stands for one that was not finite."""
    values = ((line.get(x), line.get(y)) for line in run.lines)
    return [(a, b) for a, b in values if a is not None and b is not None]


def _draw_curve(axes: Axes, points: Points, style: Style, **options: Any) -> None:
    if points:
        look = {"color": style.color, "linestyle": style.linestyle, "linewidth": 1.4, "markersize": 4}
        axes.plot(*zip(*points, strict=True), **look | options)
