"""The attention maps of one matched pair, drawn as in IAIS's figure: words x words, regions x regions.

Ren et al., ACL 2021, show them before and after the alignment: here each run has a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jax_itm.data.split import Split
from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import check_fits
from jax_itm.evaluation.isd import matched_batch, method_with_maps
from jax_itm.inference.matcher import Matcher
from jax_itm.losses import alignment
from jax_itm.plots.figures import new_figure, save_figure

PANEL = 4.2  # inches


class Attention(NamedTuple):
    """The attention maps of one pair in one run. Their rows sum to 1.

    Attributes:
        run: its name.
        words: of the caption.
        among_words: A_LL (w, w).
        among_regions: A_VV (r, r).
        nearest_region: int (w,), the region that each word attends to most.
        language: the singular alignment of the language side.
        vision: that of the vision side.
    """

    run: str
    words: list[str]
    among_words: np.ndarray
    among_regions: np.ndarray
    nearest_region: np.ndarray
    language: float
    vision: float


def attention(matcher: Matcher, split: Split, caption: int, run: str) -> Attention:
    """The maps of a split's caption, numbered from 0, with its own image.

    Raises:
        UserError: the run has no attention maps, the split is not what it was trained on, or there is no such
            caption.
    """
    method = method_with_maps(matcher, "attention")
    check_fits(matcher.config, matcher.facts, split)
    captions = split.captions()
    if not 0 <= caption < len(captions):
        raise UserError(f"--caption {caption}: {split.name} {split.split} has 0 to {len(captions) - 1}")
    batch = matched_batch(matcher, split, np.array([caption]))
    maps = jax.jit(method.maps)(matcher.params, batch)
    words = np.flatnonzero(maps.mask[0])
    regions = np.flatnonzero(maps.other_mask[0])
    text = captions[caption]
    spans = matcher.tokenizer.spans([text], matcher.config.data.max_words)[0]
    return Attention(
        run=run,
        words=[text[start:end] for start, end in spans[words]],
        among_words=np.asarray(maps.own[0])[np.ix_(words, words)],
        among_regions=np.asarray(maps.other[0])[np.ix_(regions, regions)],
        nearest_region=np.asarray(alignment.singular_target(maps).chosen[0])[words],
        language=float(alignment.singular(maps)[0]),
        vision=float(alignment.singular(maps.turned())[0]),
    )


def draw(runs: Sequence[Attention], split: Split, caption: int, out: str) -> None:
    """Writes `figure_of` as a .png."""
    save_figure(figure_of(runs, split, caption), out)


def figure_of(runs: Sequence[Attention], split: Split, caption: int) -> Figure:
    """The picture with its numbered regions, then each run's two maps; words name the region they attend to.

    Colours mean the same in all runs: white is 0, the darkest blue the largest weight of any.
    """
    figure = new_figure(3 * PANEL, len(runs) * PANEL)
    axes = figure.subplots(len(runs), 3, squeeze=False)
    _draw_regions(axes[0, 0], split, int(split.caption_image[caption]))
    for panel in axes[1:, 0]:
        panel.axis("off")
    highest_words = max(float(run.among_words.max()) for run in runs)
    highest_regions = max(float(run.among_regions.max()) for run in runs)
    for run, (_, words, regions) in zip(runs, axes, strict=True):
        labels = [f"{word} →{k}" for word, k in zip(run.words, run.nearest_region, strict=True)]
        _draw_map(words, run.among_words, highest_words, labels)
        words.set_title(f"{run.run}: words (language {run.language:.3g})", fontsize=9)
        numbers = [str(k) for k in range(len(run.among_regions))]
        _draw_map(regions, run.among_regions, highest_regions, numbers)
        regions.set_title(f"{run.run}: regions (vision {run.vision:.3g})", fontsize=9)
    figure.suptitle(split.captions()[caption], wrap=True)
    return figure


def _draw_regions(axes: Axes, split: Split, image: int) -> None:
    height = 1
    width = 1
    if "image" in split.features:
        picture = split.picture(image)
        height, width = picture.shape[:2]
        axes.imshow(picture)
    else:
        axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal")
    for k, (x1, y1, x2, y2) in enumerate(split.image(image)["boxes"]):
        corner = (x1 * width, y1 * height)
        size = ((x2 - x1) * width, (y2 - y1) * height)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=2.5))
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="black", linewidth=1))
        label = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(*corner, str(k), va="top", fontsize=8, bbox=label)
    axes.set(xticks=[], yticks=[], title="regions")


def _draw_map(axes: Axes, weights: np.ndarray, highest: float, labels: list[str]) -> None:
    ticks = range(len(labels))
    fontsize = 8 if len(labels) <= 20 else 5
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=highest)
    axes.set_xticks(ticks, labels, rotation=90, fontsize=fontsize)
    axes.set_yticks(ticks, labels, fontsize=fontsize)
