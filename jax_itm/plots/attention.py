"""The attention maps of one matched pair, drawn as in IAIS's figure: words x words, regions x regions.

Ren et al., ACL 2021, show them before and after the alignment: here a row for each run.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import check_fits
from jax_itm.evaluation.isd import check_maps, matched_batch
from jax_itm.inference.matcher import Matcher
from jax_itm.losses import attention_alignment
from jax_itm.plots.runs import save_figure


class Attention(NamedTuple):
    """What one run says of one pair; rows sum to 1."""

    run: str
    words: list[str]
    among_words: np.ndarray  # A_LL (w, w)
    among_regions: np.ndarray  # A_VV (r, r)
    chosen: np.ndarray  # the region that each word attends to most (w,)
    language: float  # the singular alignment of the language side
    vision: float


def attention(matcher: Matcher, split, caption: int, run: str) -> Attention:
    """The maps of a split's caption, numbered from 0, with its own image.

    Raises:
        UserError: the run has no attention maps, its inputs are not the split's, or no such caption.
    """
    check_maps(matcher, "attention")
    check_fits(matcher.config, split)
    captions = split.captions()
    if not 0 <= caption < len(captions):
        raise UserError(f"--caption {caption}: {split.name} {split.split} has 0 to {len(captions) - 1}")
    text = captions[caption]
    batch = matched_batch(matcher, split, [text], split.caption_image[caption : caption + 1])
    method: Any = matcher.method  # one that has maps
    maps = jax.jit(method.maps)(matcher.params, batch)
    words, regions = np.flatnonzero(maps.mask[0]), np.flatnonzero(maps.other_mask[0])
    spans = matcher.tokenizer.spans([text], matcher.config.data.max_words)[0]
    return Attention(
        run,
        [text[start:end] for start, end in spans[words]],
        np.asarray(maps.own[0])[np.ix_(words, words)],
        np.asarray(maps.other[0])[np.ix_(regions, regions)],
        np.asarray(attention_alignment.singular_target(maps).chosen[0])[words],
        float(attention_alignment.singular(maps)[0]),
        float(attention_alignment.singular(maps.turned())[0]),
    )


def draw(found: Sequence[Attention], split, caption: int, out: str) -> None:
    """The picture with its numbered regions, then each run's two maps; words name the region they see.

    Colours mean the same in all runs: white is 0, the darkest blue the largest weight of any.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows, size = len(found), 4.2
    figure, axes = plt.subplots(rows, 3, figsize=(3 * size, rows * size), squeeze=False, layout="constrained")
    _regions(axes[0, 0], split, int(split.caption_image[caption]))
    for row in axes[1:, 0]:
        row.axis("off")
    most = [
        float(max(m.max() for m in maps))
        for maps in zip(*((a.among_words, a.among_regions) for a in found), strict=True)
    ]
    for of_run, (_, words, regions) in zip(found, axes, strict=True):
        labels = [f"{word} →{k}" for word, k in zip(of_run.words, of_run.chosen, strict=True)]
        numbers = [str(k) for k in range(len(of_run.among_regions))]
        title = f"{of_run.run}: words (language {of_run.language:.3g})"
        _map(words, of_run.among_words, most[0], labels, title)
        title = f"{of_run.run}: regions (vision {of_run.vision:.3g})"
        _map(regions, of_run.among_regions, most[1], numbers, title)
    figure.suptitle(split.captions()[caption], wrap=True)
    save_figure(figure, out)


def _regions(axes, split, image: int) -> None:
    from matplotlib.patches import Rectangle

    high, wide = 1, 1
    if "image" in split.features:
        picture = split.picture(image)
        high, wide = picture.shape[:2]
        axes.imshow(picture)
    else:
        axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal")
    for k, (x1, y1, x2, y2) in enumerate(split.image(image)["boxes"]):
        corner, extent = (x1 * wide, y1 * high), ((x2 - x1) * wide, (y2 - y1) * high)
        axes.add_patch(Rectangle(corner, *extent, fill=False, edgecolor="white", linewidth=2.5))
        axes.add_patch(Rectangle(corner, *extent, fill=False, edgecolor="black", linewidth=1))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(*corner, str(k), va="top", fontsize=8, bbox=box)
    axes.set(xticks=[], yticks=[], title="regions")


def _map(axes, weights: np.ndarray, most: float, labels: list[str], title: str) -> None:
    places, small = range(len(labels)), 8 if len(labels) <= 20 else 5
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=most)
    axes.set_xticks(places, labels, rotation=90, fontsize=small)
    axes.set_yticks(places, labels, fontsize=small)
    axes.set_title(title, fontsize=9)
