"""What all figures share: colours, an axis with readable numbers, and writing a file.

Figures are made without pyplot, so that they need no display and leave no state behind.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, SymmetricalLogLocator

from jax_itm.errors import UserError
from jax_itm.storage import replacing

Number = int | float

# Okabe and Ito's palette can be told apart with any colour vision; grey is for baselines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREYS = ("#9A9A9A", "#CDCDCD")
DASHES = ("-", "--", ":")
HATCHES = ("", "//", "..")  # of bars, where lines have DASHES


class Style(NamedTuple):
    """How one row of a table is drawn: lines have `color` and `linestyle`, bars `color` and `hatch`."""

    color: str
    linestyle: str
    hatch: str


def style(k: int) -> Style:
    """The style of row `k`: neighbours differ in colour and in pattern, so that either is enough."""
    pattern = k % len(DASHES)
    return Style(COLOURS[k % len(COLOURS)], DASHES[pattern], HATCHES[pattern])


def new_figure(width: Number, height: Number) -> Figure:
    """An empty figure of this size in inches; `figure.subplots` adds its panels."""
    return Figure(figsize=(width, height), layout="constrained")


def check_png(path: str, option: str = "--out") -> None:
    """Raises UserError if a figure's file, which `option` names, is not a .png."""
    if Path(path).suffix != ".png":
        raise UserError(f"{option} {path}: the figure is a .png")


def save_figure(figure: Figure, path: str) -> None:
    """Writes a figure completely or not at all."""
    with replacing(Path(path)) as partial:
        figure.savefig(partial, dpi=120, format="png")


def hide_frame(axes: Axes) -> None:
    """Leaves only the lower and the left line of the frame."""
    axes.spines[["top", "right"]].set_visible(False)


def scale_values(axes: Axes, values: Sequence[Number]) -> None:
    """Scales the y axis so that small and large values can both be read, labelled with plain numbers.

    Values within a decade, or all near zero, get a linear axis, because a logarithmic one could have no
    number as its label. Others get one that is linear between -1 and 1 and logarithmic beyond.
    """
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    decades = _decades(finite) + _decades(-finite)
    if decades <= 1:
        axes.ticklabel_format(axis="y", useOffset=False)
        return
    axes.set_yscale("symlog", linthresh=1)
    steps = [1, 2, 5] if decades < 2.5 else [1]
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=steps))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _decades(values: np.ndarray) -> float:
    """How many powers of ten the positive values beyond 1 span."""
    highest = max(values.max(initial=1), 1)
    lowest = max(values.min(initial=highest), 1)
    return float(np.log10(highest / lowest))
