"""ISD, the intra-modal self-attention distance of a run on a split (Ren et al., ACL 2021).

It is the distance between the relations among a caption's words and those among its image's regions, by the
attention maps of the run itself: lower is better. The metric's code was never released. Two forms are given,
named apart in every result:

    singular      ISD without annotation: the singular alignment (docs/methods/iais.md), mean of both sides
    isda          ISDa, from annotated phrases and the boxes they name, as the paper measures it (INFERRED)
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_itm.data.image_transforms import image_transform_of
from jax_itm.data.images import collate_images
from jax_itm.data.split import Split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import shard_global_batch
from jax_itm.distributed.watchdog import heartbeat
from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import check_fits
from jax_itm.inference.matcher import Matcher
from jax_itm.losses import alignment
from jax_itm.methods.base import HasMaps
from jax_itm.types import Array, Batch, Bool, Params

MAX_PHRASES = 16  # of a caption


class PhraseMasks(NamedTuple):
    """Which words and which regions the phrases of each caption have.

    Attributes:
        words: bool (b, p, w).
        regions: bool (b, p, r).
    """

    words: np.ndarray
    regions: np.ndarray


class MatchedBatch(NamedTuple):
    """Matched pairs, their phrases, and which rows are real: bool (b,). The last batch is filled up."""

    batch: Batch
    phrases: PhraseMasks
    is_real: np.ndarray


def isd(matcher: Matcher, split: Split) -> dict[str, float]:
    """The mean distance over a split's matched pairs.

    Returns:
        {"singular", "language", "vision", "pairs"}, where `singular` is the mean of `language` and `vision`;
        and if the split has phrases {"isda", "isda_pairs"}, over the pairs with two phrases or more.

    Raises:
        UserError: the run has no attention maps, or the split is not what it was trained on.
    """
    method = method_with_maps(matcher, "--isd")
    check_fits(matcher.config, matcher.facts, split)
    totals: dict[str, float] = defaultdict(float)
    for matched in _matched_batches(matcher, split):
        heartbeat()
        sums = _sum_distances(method, matcher.params, *shard_global_batch(matcher.mesh, matched))
        for name, value in sums.items():
            totals[name] += float(value)
    language = totals["language"] / totals["pairs"]
    vision = totals["vision"] / totals["pairs"]
    result = {
        "language": language,
        "vision": vision,
        "singular": (language + vision) / 2,
        "pairs": int(totals["pairs"]),
    }
    if totals["isda_pairs"]:
        result["isda"] = totals["isda"] / totals["isda_pairs"]
        result["isda_pairs"] = int(totals["isda_pairs"])
    return result


def method_with_maps(matcher: Matcher, purpose: str) -> HasMaps:
    """The method of a run, if it has attention maps.

    Raises:
        UserError: it has none; the line begins with the `purpose` that needs them.
    """
    if not isinstance(matcher.method, HasMaps):
        raise UserError(f"{purpose}: {matcher.method.label} has no attention among words and regions")
    return matcher.method


def matched_batch(matcher: Matcher, split: Split, captions: np.ndarray) -> Batch:
    """A batch of captions, by number, each with its own image."""
    data = matcher.config.data
    texts = split.captions()
    ids, mask = matcher.tokenizer.encode([texts[k] for k in captions], data.max_words)
    images = split.caption_image[captions]
    records = {image: split.image(int(image)) for image in np.unique(images)}
    transform = image_transform_of(matcher.config, matcher.facts)
    image = collate_images([records[image] for image in images], data.max_regions, transform)
    return {"image": image, "text": {"ids": ids, "mask": mask}}


def phrase_masks(
    tokenizer: Tokenizer, split: Split, captions: np.ndarray, max_words: int, max_regions: int
) -> PhraseMasks:
    """The phrases of captions, by number; a phrase with several boxes is one phrase.

    Args:
        tokenizer: of the run.
        split: a split with phrases; without, the masks are empty.
        captions: int (b,), numbers of captions.
        max_words: w.
        max_regions: r.
    """
    words = np.zeros((len(captions), MAX_PHRASES, max_words), bool)
    regions = np.zeros((len(captions), MAX_PHRASES, max_regions), bool)
    if "phrases" not in split.features:
        return PhraseMasks(words, regions)
    texts = split.captions()
    token_spans = tokenizer.spans([texts[k] for k in captions], max_words)
    for row, caption in enumerate(captions):
        starts = token_spans[row][:, 0]
        ends = token_spans[row][:, 1]
        boxes_of_spans = list(_boxes_by_span(split, int(caption)).items())
        for phrase, ((start, end), boxes) in enumerate(boxes_of_spans[:MAX_PHRASES]):
            words[row, phrase] = (starts < end) & (ends > start)
            regions[row, phrase, boxes] = True
    return PhraseMasks(words, regions)


def _boxes_by_span(split: Split, caption: int) -> dict[tuple[int, int], list[int]]:
    """The boxes of each phrase of a caption, by the phrase's first letter and the one after its last."""
    image = int(split.caption_image[caption])
    number = caption - int(np.searchsorted(split.caption_image, image))  # among the image's captions
    boxes: dict[tuple[int, int], list[int]] = {}
    for phrase in split.phrases(image):
        if phrase["caption"] == number:
            boxes.setdefault((phrase["start"], phrase["end"]), []).append(phrase["box"])
    return boxes


def _matched_batches(matcher: Matcher, split: Split) -> Iterator[MatchedBatch]:
    count = len(split.caption_image)
    for start in range(0, count, matcher.batch_size):
        rows = np.arange(start, start + matcher.batch_size)
        captions = rows % count
        batch = matched_batch(matcher, split, captions)
        max_words = batch["text"]["ids"].shape[1]
        max_regions = batch["image"]["mask"].shape[1]
        phrases = phrase_masks(matcher.tokenizer, split, captions, max_words, max_regions)
        yield MatchedBatch(batch, phrases, rows < count)


@partial(jax.jit, static_argnums=0)  # compiled once for all validations of a run
def _sum_distances(
    method: HasMaps, params: Params, batch: Batch, phrases: PhraseMasks, is_real: Bool[Array, "b"]
) -> dict[str, Any]:
    """Sums over the real pairs of a batch."""
    maps = method.maps(params, batch)
    words = jnp.logical_and(phrases.words, maps.mask[:, None])
    regions = jnp.logical_and(phrases.regions, maps.other_mask[:, None])
    isda, has_isda = alignment.annotated_isd(maps, words, regions)
    total = lambda distances, counts: jnp.sum(jnp.where(counts, distances, 0))
    return {
        "language": total(alignment.singular(maps), is_real),
        "vision": total(alignment.singular(maps.turned()), is_real),
        "isda": total(isda, is_real & has_isda),
        "isda_pairs": jnp.sum(is_real & has_isda),
        "pairs": jnp.sum(is_real),
    }
