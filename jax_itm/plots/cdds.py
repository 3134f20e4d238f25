"""What CDDS's decoupling and sampling have learnt, drawn from a run: the paper's figures 3, 4 and 5."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jax_itm.arrays import Encoded, l2_normalise, mean_pool
from jax_itm.data.image_transforms import image_transform_of
from jax_itm.data.images import collate_images
from jax_itm.data.split import Split
from jax_itm.distributed.mesh import shard_global_batch
from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import check_fits
from jax_itm.inference.matcher import Matcher
from jax_itm.losses.columns import ColumnSelection, column_moments
from jax_itm.methods import DualEncoder
from jax_itm.methods.scores import selection
from jax_itm.plots.figures import COLOURS, hide_frame, new_figure, save_figure

IMAGES = 7  # whose captions are drawn
LEVELS = (0.2, 0.5, 0.8)  # at which an arrow joins the two distributions


class Semantics(NamedTuple):
    """What is drawn of a run. A column is one dimension of the tokens.

    Attributes:
        s: S (d, d), image columns by text columns.
        kept_by_image: bool (d, d), the mask of S_v.
        kept_by_text: bool (d, d), the mask of S_t, transposed to the same axes.
        columns: an image column, and the text column that it draws from most.
        values: of these two, over all real tokens, ascending.
        captions: "text embeddings" and "semantic components", (t, d) each, L2-normalised.
        caption_image: int (t,), the image of each caption.
    """

    s: np.ndarray
    kept_by_image: np.ndarray
    kept_by_text: np.ndarray
    columns: tuple[int, int]
    values: tuple[np.ndarray, np.ndarray]
    captions: dict[str, np.ndarray]
    caption_image: np.ndarray

    def numbers(self) -> dict[str, float]:
        """The fractions of kept columns and of empty rows, and figure 5's ratio for both kinds of caption."""
        masks = (self.kept_by_image, self.kept_by_text.T)
        ratios = {name: ratio(rows, self.caption_image) for name, rows in self.captions.items()}
        return {
            "kept": float(np.mean([mask.mean() for mask in masks])),
            "empty": float(np.mean([np.mean(~mask.any(axis=1)) for mask in masks])),
            **ratios,
        }


def ratio(rows: np.ndarray, caption_image: np.ndarray) -> float:
    """Mean distance between captions of one image, divided by that between captions of different images.

    Args:
        rows: (t, d), L2-normalised.
        caption_image: int (t,), the image of each caption.
    """
    distance = np.sqrt(np.maximum(2 - 2 * rows @ rows.T, 0))
    is_same_image = caption_image[:, None] == caption_image[None]
    is_other_caption = ~np.eye(len(rows), dtype=bool)
    return float(distance[is_same_image & is_other_caption].mean() / distance[~is_same_image].mean())


def semantics(matcher: Matcher, split: Split, images: int = 200) -> Semantics:
    """The semantic components of a split's first `images`.

    Raises:
        UserError: the run is not CDDS, the split is not what it was trained on, or there is nothing to
            compare.
    """
    method = matcher.method
    if not isinstance(method, DualEncoder) or method.head is None:
        raise UserError(f"semantics: {method.label} has no semantic components (config.head)")
    check_fits(matcher.config, matcher.facts, split)
    split = split.first(images)
    if len(split) < 2 or len(split.captions()) == len(split):
        raise UserError(f"semantics: {split.name} {split.split} has no two images, or no two captions of one")
    image = _image_components(matcher, method, split)
    text = _text_components(matcher, method, split)
    s, by_image, by_text = _selection(matcher, image, text)
    columns = _most_related(np.asarray(by_image.weights))
    values = [np.sort(one.tokens[one.mask][:, k]) for one, k in zip((image, text), columns, strict=True)]
    embeddings = l2_normalise(mean_pool(jnp.asarray(text.origin), jnp.asarray(text.mask)))
    return Semantics(
        s=s,
        kept_by_image=np.asarray(by_image.kept),
        kept_by_text=np.asarray(by_text.kept).T,
        columns=columns,
        values=(values[0], values[1]),
        captions={
            "text embeddings": np.asarray(embeddings),
            "semantic components": np.asarray(text.embedding),
        },
        caption_image=split.caption_image,
    )


def table(numbers: Mapping[str, Sequence[dict[str, float]]]) -> str:
    """The mean numbers of each name's runs, as a Markdown table."""
    names = list(next(iter(numbers.values()))[0])
    lines = [f"| run | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for run, seeds in numbers.items():
        means = (f"{fmean(seed[name] for seed in seeds):.3f}" for name in names)
        lines.append(f"| {run} | {' | '.join(means)} |")
    return "\n".join(lines)


def _selection(
    matcher: Matcher, image: Encoded, text: Encoded
) -> tuple[np.ndarray, ColumnSelection, ColumnSelection]:
    """S, and what each side selects of it, from the moments of all tokens."""
    options = matcher.config.losses.sampling
    is_precomputed = options.schedule == "precomputed"
    tokens = lambda one: one.origin if is_precomputed and one.origin is not None else one.tokens
    moments = [column_moments(jnp.asarray(tokens(one)), jnp.asarray(one.mask)) for one in (image, text)]
    log_s, (by_image, by_text) = jax.device_get(selection(matcher.params, moments[0], moments[1], options))
    return np.exp(log_s), by_image, by_text


def _most_related(weights: np.ndarray) -> tuple[int, int]:
    """The image column and the other text column that are related most."""
    others = np.where(np.eye(len(weights), dtype=bool), 0, weights)
    image_column, text_column = np.unravel_index(np.argmax(others), weights.shape)
    return int(image_column), int(text_column)


def _image_components(matcher: Matcher, method: DualEncoder, split: Split) -> Encoded:
    transform = image_transform_of(matcher.config, matcher.facts)

    def inputs(images: np.ndarray) -> dict[str, np.ndarray]:
        records = (split.image(int(image)) for image in images)
        return collate_images(records, matcher.config.data.max_regions, transform)

    return _components(matcher, method, "image", inputs, len(split))


def _text_components(matcher: Matcher, method: DualEncoder, split: Split) -> Encoded:
    captions = split.captions()

    def inputs(numbers: np.ndarray) -> dict[str, np.ndarray]:
        texts = [captions[number] for number in numbers]
        ids, mask = matcher.tokenizer.encode(texts, matcher.config.data.max_words)
        return {"ids": ids, "mask": mask}

    return _components(matcher, method, "text", inputs, len(captions))


def _components(
    matcher: Matcher,
    method: DualEncoder,
    side: str,
    inputs: Callable[[np.ndarray], dict[str, np.ndarray]],
    count: int,
) -> Encoded:
    """The components of `count` items in batches; the last item fills the last batch up."""
    encode = jax.jit(method.encode, static_argnums=1)
    parts = []
    for start in range(0, count, matcher.batch_size):
        items = np.minimum(np.arange(start, start + matcher.batch_size), count - 1)
        batch = shard_global_batch(matcher.mesh, inputs(items))
        parts.append(encode(matcher.params, side, batch))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


def draw(semantics: Semantics, title: str, out: str) -> None:
    """Writes `figure_of` as a .png."""
    save_figure(figure_of(semantics, title), out)


def figure_of(semantics: Semantics, title: str) -> Figure:
    """S and its two masks; two columns' distributions and the map between them; captions in the plane."""
    figure = new_figure(14, 8.4)
    axes = figure.subplots(2, 3)
    matrices = {
        "S": semantics.s,
        "kept of S, by image column": semantics.kept_by_image,
        "kept of S, by text column": semantics.kept_by_text,
    }
    for panel, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
        panel.imshow(matrix, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        panel.set(title=name, xlabel="text column", ylabel="image column")
    _draw_distributions(axes[1, 0], semantics)
    numbers = semantics.numbers()
    for panel, (name, rows) in zip(axes[1, 1:], semantics.captions.items(), strict=True):
        _draw_captions(panel, rows, semantics.caption_image)
        panel.set(title=f"captions of {IMAGES} images: {name}\nwithin / between = {numbers[name]:.3f}")
    figure.suptitle(f"{title}: {numbers['kept']:.0%} kept, {numbers['empty']:.0%} of the rows empty")
    return figure


def _draw_distributions(axes: Axes, semantics: Semantics) -> None:
    labels = (f"image column {semantics.columns[0]}", f"text column {semantics.columns[1]}")
    fractions = [(np.arange(len(values)) + 0.5) / len(values) for values in semantics.values]
    curves = list(zip(semantics.values, fractions, strict=True))
    for (values, fraction), label, colour in zip(curves, labels, COLOURS, strict=False):
        axes.plot(values, fraction, label=label, color=colour)
    arrow: dict[str, Any] = {"arrowstyle": "->", "color": "grey"}
    for level in LEVELS:
        start, end = (np.interp(level, fraction, values) for values, fraction in curves)
        axes.annotate("", (end, level), (start, level), arrowprops=arrow)
    axes.set(title="two columns and the map between them", xlabel="value", ylabel="cumulative fraction")
    axes.legend(frameon=False, fontsize=8)
    hide_frame(axes)


def _draw_captions(axes: Axes, rows: np.ndarray, caption_image: np.ndarray) -> None:
    """The first images' captions on the first two principal axes of all captions."""
    centred = rows - rows.mean(axis=0)
    _, _, principal = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ principal[:2].T
    for image, colour in zip(range(IMAGES), COLOURS, strict=True):
        axes.plot(*plane[caption_image == image].T, "o", color=colour, markersize=5, linestyle="none")
    axes.set(xticks=[], yticks=[])
