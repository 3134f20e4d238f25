"""The data card of a prepared data set: what it holds in numbers, and a sheet of its pictures."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_itm.errors import UserError
from jax_itm.plots.runs import save_figure

ROWS, COLUMNS = 3, 4
COUNTS = ("captions an image", "words", "width", "height", "regions")


def card(facts: dict[str, Any]) -> str:
    """The lines that `prepare` and `describe` print, of what `builders.describe` found.

    A number that differs among images or captions is least/median/most; widths and heights are pixels.
    """
    source = f", from {facts['source']}" if facts["source"] else ""
    kind = f", splits: {facts['kind']}" if facts["kind"] else ""
    shown = [name for name in COUNTS if any(name in spreads for spreads in facts["spreads"].values())]
    rows = [["split", "images", "captions", *shown]]
    for split, counts in facts["splits"].items():
        spreads = [_spread(facts["spreads"][split].get(name)) for name in shown]
        rows.append([split, f"{counts['images']:,}", f"{counts['captions']:,}", *spreads])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{facts['name']} in {facts['path']}{source}{kind}"]
    lines += ["  " + "  ".join(map(str.rjust, row, widths)) for row in rows]
    if any("/" in cell for row in rows for cell in row):
        lines[1] += "  (least/median/most)"
    shape = f", first image's regions {facts['regions']}" if facts["regions"] else ""
    lines.append(f"  holds {', '.join(facts['features'])}{shape}")
    if facts["tally"]:
        lines.append("  " + ", ".join(f"{count:,} {what}" for what, count in facts["tally"].items()))
    return "\n".join([*lines, *(f"  {note}" for note in facts["notes"])])


def _spread(values: Sequence[int] | None) -> str:
    """Least/median/most, or the one number that all are."""
    shown = [f"{value:,}" for value in values or ()]
    return "/".join(shown) if len(set(shown)) > 1 else "".join(shown[:1])


def contact_sheet(split, out: str) -> None:
    """Draws a dozen images of a split, evenly apart, each with its first caption, into a .png.

    An image is its picture, or in a set without pictures its boxes on an empty canvas.

    Raises:
        UserError: the set has neither pictures nor boxes.
    """
    if "image" not in split.features and not split.has_boxes:
        raise UserError(f"--out {out}: {split.name} holds neither pictures nor boxes to draw")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(3 * COLUMNS, 3.2 * ROWS), layout="constrained")
    chosen = np.unique(np.linspace(0, len(split) - 1, ROWS * COLUMNS).astype(int))
    captions, first = split.captions(), np.searchsorted(split.caption_image, np.arange(len(split)))
    for cell in axes.flat:
        cell.axis("off")
    for cell, image in zip(axes.flat, chosen, strict=False):
        _draw(cell, split, int(image))
        text = textwrap.shorten(captions[first[image]], 100, placeholder=" ..")
        cell.set_title(textwrap.fill(text, 36), fontsize=8, parse_math=False)
    figure.suptitle(f"{split.name}, {split.split}: {len(split):,} images", parse_math=False)
    save_figure(figure, out)


def _draw(cell: Any, split, image: int) -> None:
    from matplotlib.patches import Rectangle

    if "image" in split.features:
        cell.imshow(split.picture(image))
        return
    cell.set(xlim=(-0.01, 1.01), ylim=(1.01, -0.01), aspect="equal")
    cell.add_patch(Rectangle((0, 0), 1, 1, facecolor="#F2F2F2", edgecolor="none"))
    for x1, y1, x2, y2 in split.image(image)["boxes"]:
        cell.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="#0072B2", linewidth=0.8))
