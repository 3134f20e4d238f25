"""What each row of a study adds to its base: a table, and a figure of the intervals."""

from collections.abc import Sequence
from typing import NamedTuple

from jax_itm.evaluation.comparison import how, p_value
from jax_itm.metrics import Difference
from jax_itm.plots import figures

HEADER = ("row", "base", "rSum of the base", "rSum", "difference", "95 % interval", "p", "minutes")


class Added(NamedTuple):
    """A row and its base.

    Attributes:
        name: of the row.
        base: of the row that is the same without its terms.
        rsum: both settings' rSum, and their difference.
        minutes: of training, the mean of the row's runs.
    """

    name: str
    base: str
    rsum: Difference
    minutes: float


def differences_table(rows: Sequence[Added], seeds: int) -> str:
    """The Markdown table of rows with so many runs each, and what its intervals say."""
    lines = [f"| {' | '.join(HEADER)} |", "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |"]
    for row in rows:
        low, high = row.rsum.interval
        change = row.rsum.second - row.rsum.first
        lines.append(
            f"| {row.name} | {row.base} | {row.rsum.first:.1f} | {row.rsum.second:.1f} | {change:+.1f}"
            f" | {low:+.1f} to {high:+.1f} | {p_value(row.rsum.p)} | {row.minutes:.1f} |"
        )
    return "\n".join([*lines, "", how(seeds, seeds)])


def differences_figure(rows: Sequence[Added], path: str) -> None:
    """Draws each difference with its interval, one row below the other, and writes it to `path`."""
    figure = figures.new_figure(7, 1 + 0.35 * len(rows))
    axes = figure.subplots()
    colour = figures.COLOURS[0]
    for k, row in enumerate(rows):
        axes.plot(row.rsum.interval, [k, k], color=colour, lw=2)
        axes.plot([row.rsum.second - row.rsum.first], [k], "o", color=colour)
    axes.axvline(0, color=figures.GREYS[0], lw=0.8)
    axes.set_yticks(range(len(rows)), [f"{row.name} - {row.base}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("difference in rSum, with its 95 % interval")
    figures.hide_frame(axes)
    figures.save_figure(figure, path)
