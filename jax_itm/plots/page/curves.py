"""The curves of runs: one small panel for each number, with an axis of its own."""

from collections.abc import Sequence
from typing import NamedTuple

from jax_itm.plots import figures
from jax_itm.plots.page.embedded import inline_svg
from jax_itm.plots.runs import Run

MOST_POINTS = 400  # of a curve: more are not seen, and make the page large
FEW = 30  # points, of which each is marked
WEIGHTED = "train/weighted/"
RSUM = "val/rsum"
TRAINING = {
    RSUM: "validation rSum",
    "train/learning_rate": "learning rate",
    "train/grad_norm": "gradient norm",
    "train/data_wait_fraction": "fraction of the step spent waiting for data",
    "train/step_seconds": "seconds a step",
    "train/gap": "matched minus unmatched score",
}


NamedRuns = Sequence[tuple[str, Run]]


class Panel(NamedTuple):
    """One drawing of a page: its title, and the `<svg>` element."""

    title: str
    svg: str


class Series(NamedTuple):
    """One curve: what it is called, how it is drawn, and its points."""

    label: str
    style: figures.Style
    steps: list[float]
    values: list[float]

    def in_words(self) -> str:
        """Where it begins and ends, its least and its largest value."""
        first, last = self.values[0], self.values[-1]
        return (
            f"{self.label}: {first:.4g} at step {self.steps[0]:,}, {last:.4g} at step {self.steps[-1]:,},"
            f" between {min(self.values):.4g} and {max(self.values):.4g}"
        )


def loss_panels(runs: NamedRuns) -> list[Panel]:
    """The loss, and each of its terms with its weight; runs without a term are left out of its panel."""
    keys = {key for _, run in runs for line in run.lines for key in line if key.startswith(WEIGHTED)}
    titles = {key: f"{key.removeprefix(WEIGHTED)}, weighted" for key in sorted(keys)}
    return _panels(runs, {"train/loss": "loss"} | titles)


def training_panels(runs: NamedRuns) -> list[Panel]:
    """Validation, learning rate, gradient norm, pace."""
    return _panels(runs, TRAINING)


def _panels(runs: NamedRuns, titles: dict[str, str]) -> list[Panel]:
    panels = ((key, title, _series(runs, key)) for key, title in titles.items())
    return [Panel(title, _draw(key, title, series)) for key, title, series in panels if series]


def _series(runs: NamedRuns, key: str) -> list[Series]:
    """The curves of one number; a run has the same style in all panels."""
    series = []
    for k, (name, run) in enumerate(runs):
        points = [(line["step"], line[key]) for line in run.lines if line.get(key) is not None]
        if points:
            steps, values = (list(column) for column in zip(*_thinned(points), strict=True))
            series.append(Series(name, figures.style(k), steps, values))
    return series


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Evenly spaced points, the last among them."""
    stride = -(-len(points) // MOST_POINTS)
    return points[-1::-stride][::-1]


def _draw(key: str, title: str, series: Sequence[Series]) -> str:
    figure = figures.new_figure(4.4, 2.7)
    axes = figure.subplots()
    for one in series:
        [line] = axes.plot(one.steps, one.values, label=one.label, linewidth=1.4, markersize=3)
        line.set(color=one.style.color, linestyle=one.style.linestyle)
        line.set_marker("o" if len(one.steps) <= FEW else "")
    if key != RSUM:  # a sum of percentages, whose differences count
        figures.scale_values(axes, [value for one in series for value in one.values])
    axes.set_xlabel("step")
    figures.hide_frame(axes)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=7)
    return inline_svg(figure, f"{title} by step. " + "; ".join(one.in_words() for one in series))
