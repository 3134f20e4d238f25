"""The pictures that a search found, on one sheet."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np

from jax_itm.plots.figures import new_figure, save_figure

COLUMNS = 5
PANEL = 2.4  # inches
LABEL = 34  # characters of a line


def draw_results(title: str, pictures: Sequence[np.ndarray], labels: Sequence[str], out: str) -> None:
    """Draws pictures in reading order, each below its label, into a .png.

    Args:
        title: what was searched for.
        pictures: uint8 (h, v, 3) each, the best first.
        labels: such as a score and a path, one for each picture.
        out: the file.
    """
    columns = min(COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    figure = new_figure(PANEL * max(columns, 2), (PANEL + 0.4) * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.axis("off")
    for panel, picture, label in zip(axes.flat, pictures, labels, strict=False):
        panel.imshow(picture)
        panel.set_title(textwrap.fill(label, LABEL), fontsize=7, parse_math=False)
    shown = textwrap.fill(textwrap.shorten(title, 200, placeholder=" .."), 30 * max(columns, 2))
    figure.suptitle(shown, parse_math=False, fontsize=10)
    save_figure(figure, out)
