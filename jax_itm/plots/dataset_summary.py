"""The summary of a prepared data set: counts and sizes, and a contact sheet of its images."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from jax_itm.data.split import Split
from jax_itm.errors import UserError
from jax_itm.plots.figures import COLOURS, new_figure, save_figure

ROWS = 3
COLUMNS = 4
COUNTS = ("captions an image", "words", "width", "height", "regions")


def format_summary(summary: Mapping[str, Any]) -> str:
    """The lines that `prepare` and `describe` print, from what `data.prepared.describe` returns.

    A number that differs among images or captions is least/median/most. Widths and heights are pixels.
    """
    source = f", from {summary['source']}" if summary["source"] else ""
    kind = f", splits: {summary['kind']}" if summary["kind"] else ""
    counts = _counts_table(summary)
    if "/" in "".join(counts):
        counts[0] += "  (least/median/most)"
    shape = f", first image's regions {summary['regions']}" if summary["regions"] else ""
    lines = [*counts, f"holds {', '.join(summary['features'])}{shape}"]
    if summary["tally"]:
        lines.append(", ".join(f"{count:,} {name}" for name, count in summary["tally"].items()))
    lines += summary["notes"]
    return "\n".join(
        [f"{summary['name']} in {summary['path']}{source}{kind}", *("  " + line for line in lines)]
    )


def contact_sheet(split: Split, out: str) -> None:
    """Draws a dozen images of a split, evenly spaced, each with its first caption, into a .png.

    An image is its picture, or its boxes on an empty canvas if the data set has no pictures.

    Raises:
        UserError: the data set has neither pictures nor boxes.
    """
    if "image" not in split.features and not split.has_boxes:
        raise UserError(f"--out {out}: {split.name} holds neither pictures nor boxes to draw")
    figure = new_figure(3 * COLUMNS, 3.2 * ROWS)
    axes = figure.subplots(ROWS, COLUMNS)
    images = np.unique(np.linspace(0, len(split) - 1, ROWS * COLUMNS).astype(int))
    captions = split.captions()
    first_caption = np.searchsorted(split.caption_image, np.arange(len(split)))
    for panel in axes.flat:
        panel.axis("off")
    for panel, image in zip(axes.flat, images, strict=False):
        _draw_image(panel, split, int(image))
        text = textwrap.shorten(captions[first_caption[image]], 100, placeholder=" ..")
        panel.set_title(textwrap.fill(text, 36), fontsize=8, parse_math=False)
    figure.suptitle(f"{split.name}, {split.split}: {len(split):,} images", parse_math=False)
    save_figure(figure, out)


def _counts_table(summary: Mapping[str, Any]) -> list[str]:
    """The numbers of each split, in columns."""
    spreads = summary["spreads"]
    names = [name for name in COUNTS if any(name in spread for spread in spreads.values())]
    rows = [["split", "images", "captions", *names]]
    for split, counts in summary["splits"].items():
        cells = [_spread(spreads[split].get(name)) for name in names]
        rows.append([split, f"{counts['images']:,}", f"{counts['captions']:,}", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.rjust, row, widths)) for row in rows]


def _spread(values: Sequence[int] | None) -> str:
    """Least/median/most, or one number if these are equal."""
    texts = [f"{value:,}" for value in values or ()]
    return "/".join(texts) if len(set(texts)) > 1 else "".join(texts[:1])


def _draw_image(axes: Axes, split: Split, image: int) -> None:
    if "image" in split.features:
        axes.imshow(split.picture(image))
        return
    axes.set(xlim=(-0.01, 1.01), ylim=(1.01, -0.01), aspect="equal")
    axes.add_patch(Rectangle((0, 0), 1, 1, facecolor="#F2F2F2", edgecolor="none"))
    for x1, y1, x2, y2 in split.image(image)["boxes"]:
        box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=COLOURS[0], linewidth=0.8)
        axes.add_patch(box)
