"""Drawings of what runs retrieve: recall bars, ranks, and the embeddings in a plane."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from jax_itm.plots import figures, tables
from jax_itm.plots.figures import Style
from jax_itm.plots.page.curves import Panel
from jax_itm.plots.page.embedded import inline_svg
from jax_itm.plots.page.retrieval import Retrieval
from jax_itm.plots.report import draw_recalls
from jax_itm.plots.runs import Run

EDGES = (1, 2, 6, 11, 21, 51, 101)  # of the bars of ranks: the first rank of each
POINTS = 200  # pairs in the plane


class Plane(NamedTuple):
    """Embeddings on their first two principal axes.

    Attributes:
        images: (n, 2).
        captions: (n, 2), of the same pairs.
        share: fraction of the variance in the plane.
        gap: distance between the mean image and the mean caption of all.
    """

    images: np.ndarray
    captions: np.ndarray
    share: float
    gap: float


def recall_panel(runs: Sequence[Run]) -> Panel:
    """The recalls of each row of the table, as bars."""
    figure = figures.new_figure(8, 3.4)
    axes = figure.subplots()
    draw_recalls(axes, tables.group_by(runs, lambda run: tables.setting(run.result)))
    axes.set_title("")
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=7)
    figures.hide_frame(axes)
    header, *rows = tables.rows([run.result for run in runs])
    words = [
        f"{row[0]}: " + ", ".join(f"{name} {cell}" for name, cell in zip(header[1:7], row[1:7], strict=True))
        for row in rows
    ]
    return Panel("recall", inline_svg(figure, "Recall in percent, as bars. " + "; ".join(words)))


def rank_labels() -> list[str]:
    """The ranks that each bar counts."""
    inner = [str(first) if after - first == 1 else f"{first}-{after - 1}" for first, after in pairwise(EDGES)]
    return [*inner, f"{EDGES[-1]} or more"]


def rank_shares(ranks: np.ndarray) -> np.ndarray:
    """The percentage of the ranks that each bar counts."""
    counts = np.histogram(ranks, [*EDGES, np.inf])[0]
    return 100 * counts / len(ranks)


def rank_panels(retrievals: Sequence[tuple[str, Retrieval]], all_names: Sequence[str]) -> list[Panel]:
    """The ranks in both directions, the bars of runs side by side.

    Args:
        retrievals: of runs by name.
        all_names: of all runs of the page, whose order decides a run's style.
    """
    directions = {
        "caption to image": [retrieval.ranks.t2i for _, retrieval in retrievals],
        "image to caption": [retrieval.ranks.i2t for _, retrieval in retrievals],
    }
    styles = {name: figures.style(all_names.index(name)) for name, _ in retrievals}
    return [_rank_panel(direction, styles, ranks) for direction, ranks in directions.items()]


def _rank_panel(direction: str, styles: Mapping[str, Style], ranks: Sequence[np.ndarray]) -> Panel:
    figure = figures.new_figure(5.2, 3)
    axes = figure.subplots()
    labels = rank_labels()
    width = 0.8 / len(styles)
    words = []
    for k, ((name, style), own) in enumerate(zip(styles.items(), ranks, strict=True)):
        shares = rank_shares(own)
        centres = np.arange(len(labels)) + (k - (len(styles) - 1) / 2) * width
        look = {"color": style.color, "hatch": style.hatch, "edgecolor": "white", "linewidth": 0.3}
        axes.bar(centres, shares, width, label=name, **look)
        cells = ", ".join(f"{label}: {share:.1f}%" for label, share in zip(labels, shares, strict=True))
        words.append(f"{name}, median rank {np.median(own):g}: {cells}")
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set(xlabel="rank of the right answer", ylabel="% of the queries")
    figures.hide_frame(axes)
    if len(styles) > 1:
        axes.legend(frameon=False, fontsize=7)
    title = f"ranks, {direction}"
    return Panel(title, inline_svg(figure, f"Histogram of {title}. " + "; ".join(words)))


def plane(images: np.ndarray, captions: np.ndarray, caption_image: np.ndarray) -> Plane:
    """The first pairs in the plane of the two principal axes of all embeddings.

    Args:
        images: (i, d).
        captions: (t, d).
        caption_image: int (t,), the image of each caption.
    """
    rows = np.concatenate([images, captions]).astype(np.float64)
    mean = rows.mean(axis=0)
    _, spread, axes = np.linalg.svd(rows - mean, full_matrices=False)
    first = np.unique(caption_image, return_index=True)[1][:POINTS]
    project = lambda part: (part - mean) @ axes[:2].T
    return Plane(
        images=project(images[caption_image[first]]),
        captions=project(captions[first]),
        share=float(np.sum(spread[:2] ** 2) / np.sum(spread**2)),
        gap=float(np.linalg.norm(images.mean(axis=0) - captions.mean(axis=0))),
    )


def gap_panel(name: str, retrieval: Retrieval) -> Panel | None:
    """Images and captions in one plane, each pair joined; None of a run without embeddings."""
    if retrieval.embeddings is None:
        return None
    points = plane(*retrieval.embeddings, retrieval.split.caption_image)
    figure = figures.new_figure(4.6, 3.8)
    axes = figure.subplots()
    for image, caption in zip(points.images, points.captions, strict=True):
        axes.plot(*zip(image, caption, strict=True), color="#8A8A8A", linewidth=0.4)
    for label, rows, marker, k in (("images", points.images, "o", 0), ("captions", points.captions, "^", 1)):
        axes.plot(*rows.T, marker, label=label, color=figures.COLOURS[k], markersize=3.5)
    axes.set(xticks=[], yticks=[])
    axes.legend(frameon=False, fontsize=7)
    figures.hide_frame(axes)
    words = (
        f"{len(points.images)} images and one caption of each on the first two principal axes, which have"
        f" {points.share:.0%} of the variance; the mean image and the mean caption are {points.gap:.3f} apart"
    )
    return Panel(f"{name}: {words}", inline_svg(figure, f"{name}: {words}."))
