"""What CDDS's decoupling and sampling have learnt, drawn from a run: the paper's figures 3, 4 and 5."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_itm.arrays import Encoded, l2_normalise, mean_pool
from jax_itm.data.image_transforms import image_transform_of
from jax_itm.data.images import collate_images
from jax_itm.distributed.mesh import shard_global_batch
from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import check_fits
from jax_itm.inference.matcher import Matcher
from jax_itm.losses.distribution_sampling import before, column_moments
from jax_itm.methods.cdds import Cdds
from jax_itm.plots.runs import COLOURS, save_figure
from jax_itm.types import NamedTuple

SHOWN = 7  # images whose captions are drawn


class Semantics(NamedTuple):
    """What is drawn; columns are dimensions."""

    s: np.ndarray  # (d, d), image columns by text columns
    kept: tuple[np.ndarray, np.ndarray]  # the masks of S_v (d, d) and of S_t, turned to the same axes
    columns: tuple[int, int]  # an image column, and the text column that it draws from most
    values: tuple[np.ndarray, np.ndarray]  # of these two, over all true tokens, ascending
    captions: dict[str, np.ndarray]  # "text embeddings", "semantic components": (t, d), length one
    owner: np.ndarray  # the image of each caption (t,)

    def numbers(self) -> dict[str, float]:
        """The shares of kept columns and empty rows, and figure 5's ratio for both kinds of caption."""
        kept, turned = self.kept[0], self.kept[1].T
        empty = [np.mean(~mask.any(axis=1)) for mask in (kept, turned)]
        ratios = {name: ratio(x, self.owner) for name, x in self.captions.items()}
        return {
            "kept": float(np.mean([kept.mean(), turned.mean()])),
            "empty": float(np.mean(empty)),
            **ratios,
        }


def ratio(x: np.ndarray, owner: np.ndarray) -> float:
    """Mean distance between captions of one image, over that between captions of different images."""
    apart = np.sqrt(np.maximum(2 - 2 * x @ x.T, 0))
    same = owner[:, None] == owner[None]
    other_caption = ~np.eye(len(x), dtype=bool)
    return float(apart[same & other_caption].mean() / apart[~same].mean())


def semantics(matcher: Matcher, split, images: int = 200) -> Semantics:
    """Of a split's first `images`.

    Raises:
        UserError: the run is none of CDDS, its inputs are not the split's, or it has nothing to compare.
    """
    method = matcher.method
    if not isinstance(method, Cdds):  # its components are no other method's
        raise UserError(f"semantics: {matcher.config.method.name} has no semantic components")
    check_fits(matcher.config, split)
    split = split.first(images)
    if len(split) < 2 or len(split.captions()) == len(split):
        raise UserError(f"semantics: {split.name} {split.split} has no two images, or no two captions of one")
    shown, written = _components(matcher, method, split)
    of_s = before if matcher.config.sampling.schedule == "precomputed" else lambda one: one.tokens
    moments = [column_moments(jnp.asarray(of_s(one)), jnp.asarray(one.mask)) for one in (shown, written)]
    log_s, selected = jax.device_get(Cdds.selection(method, matcher.params, *moments))
    columns = _pair(selected[0].weights)
    values = [np.sort(x.tokens[x.mask][:, k]) for x, k in zip((shown, written), columns, strict=True)]
    words = l2_normalise(mean_pool(jnp.asarray(written.origin), jnp.asarray(written.mask)))
    captions = {"text embeddings": np.asarray(words), "semantic components": written.embedding}
    masks = selected[0].kept, selected[1].kept.T
    return Semantics(np.exp(log_s), masks, columns, (values[0], values[1]), captions, split.caption_image)


def table(found: Mapping[str, Sequence[dict[str, float]]]) -> str:
    """The mean numbers of each name's runs, as a Markdown table."""
    names = list(next(iter(found.values()))[0])
    lines = [f"| run | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for run, each in found.items():
        means = (f"{fmean(one[name] for one in each):.3f}" for name in names)
        lines.append(f"| {run} | {' | '.join(means)} |")
    return "\n".join(lines)


def _pair(weights: np.ndarray) -> tuple[int, int]:
    """The image column and the other text column that it draws from most."""
    others = np.where(np.eye(len(weights), dtype=bool), 0, weights)
    i, j = np.unravel_index(np.argmax(others), weights.shape)
    return int(i), int(j)


def _components(matcher: Matcher, method: Cdds, split) -> tuple[Any, Any]:
    data, rows = matcher.config.data, matcher.batch_rows
    run = jax.jit(method.components, static_argnums=1)

    def of(side: str, count: int, batch) -> Encoded:
        last = count - 1  # it fills the last batch up
        chosen = [np.minimum(np.arange(start, start + rows), last) for start in range(0, count, rows)]
        found = [run(matcher.params, side, shard_global_batch(matcher.mesh, batch(at))) for at in chosen]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *found)

    captions = split.captions()
    transform = image_transform_of(matcher.config)
    images = lambda at: collate_images([split.image(int(k)) for k in at], data.max_regions, transform)
    words = lambda at: matcher.tokenizer.encode([captions[k] for k in at], data.max_words)
    texts = lambda at: dict(zip(("ids", "mask"), words(at), strict=True))
    return of("image", len(split), images), of("text", len(captions), texts)


def draw(found: Semantics, title: str, out: str) -> None:
    """S and its two masks; two columns' distributions and the map between them; captions in the plane."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(14, 8.4), layout="constrained")
    numbers = found.numbers()
    names = "S", "kept of S, by image column", "kept of S, by text column"
    for axis, name, values in zip(axes[0], names, (found.s, *found.kept), strict=True):
        axis.imshow(values, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axis.set(title=name, xlabel="text column", ylabel="image column")
    _distributions(axes[1, 0], found)
    for axis, (name, x) in zip(axes[1, 1:], found.captions.items(), strict=True):
        _captions(axis, x, found.owner)
        axis.set(title=f"captions of {SHOWN} images: {name}\nwithin / between = {numbers[name]:.3f}")
    figure.suptitle(f"{title}: {numbers['kept']:.0%} kept, {numbers['empty']:.0%} of the rows empty")
    save_figure(figure, out)


def _distributions(axis, found: Semantics) -> None:
    names = f"image column {found.columns[0]}", f"text column {found.columns[1]}"
    shares = [(np.arange(len(v)) + 0.5) / len(v) for v in found.values]
    for values, share, name, colour in zip(found.values, shares, names, COLOURS, strict=False):
        axis.plot(values, share, label=name, color=colour)
    for level in (0.2, 0.5, 0.8):
        ends = [np.interp(level, share, values) for values, share in zip(found.values, shares, strict=True)]
        axis.annotate(
            "", (ends[1], level), (ends[0], level), arrowprops={"arrowstyle": "->", "color": "grey"}
        )
    axis.set(title="two columns and the map between them", xlabel="value", ylabel="cumulative share")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _captions(axis, x: np.ndarray, owner: np.ndarray) -> None:
    """The first images' captions on the first two principal axes of all."""
    centred = x - x.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes[:2].T
    for image, colour in zip(range(SHOWN), COLOURS, strict=True):
        axis.plot(*plane[owner == image].T, "o", color=colour, markersize=5, linestyle="none")
    axis.set(xticks=[], yticks=[])
