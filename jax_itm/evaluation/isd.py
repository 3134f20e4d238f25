"""ISD, the intra-modal self-attention distance, of a run on a split (Ren et al., 2021).

How far the relations among a caption's words are from those among its image's regions, by the attention
maps of the run itself. The metric's code was never released; two readings are given, named apart:

    annotated     phrases and the boxes they name, as the paper measures it (INFERRED form)
    singular      the singular alignment of `attention_alignment.py`, both sides' mean; needs no annotation
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_itm.data.image_transforms import image_transform_of
from jax_itm.data.images import collate_images
from jax_itm.distributed.mesh import shard_global_batch
from jax_itm.distributed.watchdog import heartbeat
from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import check_fits
from jax_itm.inference.matcher import Matcher
from jax_itm.losses import attention_alignment
from jax_itm.types import Batch

PHRASES = 16  # of a caption, at most


def isd(matcher: Matcher, split) -> dict[str, float]:
    """The mean distance over a split's matched pairs: lower is better.

    Returns:
        {"singular", "language", "vision", "pairs"}, and where the split has phrases {"annotated",
        "annotated_pairs"}: over pairs with two phrases or more.

    Raises:
        UserError: the run has no attention maps, or its inputs are not the split's.
    """
    check_maps(matcher, "--isd")
    check_fits(matcher.config, split)
    phrased = "phrases" in split.features
    total, rows = {}, matcher.batch_rows
    owner, captions = split.caption_image, split.captions()
    first = np.searchsorted(owner, np.arange(len(split)))
    for start in range(0, len(owner), rows):
        chosen = np.arange(start, start + rows) % len(owner)  # the last batch is filled from the front
        real = np.arange(start, start + rows) < len(owner)
        batch = matched_batch(matcher, split, [captions[k] for k in chosen], owner[chosen])
        marks = np.zeros((rows, PHRASES, batch["text"]["ids"].shape[1]), bool)
        boxes = np.zeros((rows, PHRASES, batch["image"]["mask"].shape[1]), bool)
        if phrased:
            _mark(matcher, split, captions, chosen, first, marks, boxes)
        heartbeat()
        given = shard_global_batch(matcher.mesh, (batch, marks, boxes, real))
        for name, value in _distances(matcher.method, matcher.params, *given).items():
            total[name] = total.get(name, 0.0) + float(value)
    pairs = total["pairs"]
    found = {name: total[name] / pairs for name in ("language", "vision")}
    found |= {"singular": (found["language"] + found["vision"]) / 2, "pairs": int(pairs)}
    if phrased and total["annotated_pairs"]:
        found["annotated"] = total["annotated"] / total["annotated_pairs"]
        found["annotated_pairs"] = int(total["annotated_pairs"])
    return found


def check_maps(matcher: Matcher, asked: str) -> None:
    """Raises UserError where the run has no attention maps, naming what `asked` for them."""
    if not hasattr(matcher.method, "maps"):
        raise UserError(f"{asked}: {matcher.config.method.name} has no attention among words and regions")


def matched_batch(matcher: Matcher, split, captions: list[str], images: np.ndarray) -> Batch:
    """A batch of captions, each with its image (by number)."""
    data = matcher.config.data
    ids, mask = matcher.tokenizer.encode(captions, data.max_words)
    records = {int(image): split.image(int(image)) for image in np.unique(images)}
    image = collate_images(
        [records[int(k)] for k in images], data.max_regions, image_transform_of(matcher.config)
    )
    return {"image": image, "text": {"ids": ids, "mask": mask}}


def _mark(matcher: Matcher, split, captions, chosen, first, marks, boxes) -> None:
    """Fills in which tokens and which regions each phrase of the chosen captions has."""
    spans = matcher.tokenizer.spans([captions[k] for k in chosen], marks.shape[2])
    owner = split.caption_image
    phrases = {int(image): split.phrases(int(image)) for image in np.unique(owner[chosen])}
    for row, (caption, tokens) in enumerate(zip(chosen, spans, strict=True)):
        image = int(owner[caption])
        own: dict[tuple[int, int], list[int]] = {}  # a phrase with several boxes is there once for each
        for phrase in phrases[image]:
            if first[image] + phrase["caption"] == caption:
                own.setdefault((phrase["start"], phrase["end"]), []).append(phrase["box"])
        for k, ((start, end), named) in enumerate(list(own.items())[:PHRASES]):
            marks[row, k] = (tokens[:, 0] < end) & (tokens[:, 1] > start)
            boxes[row, k, named] = True


@partial(jax.jit, static_argnums=0)  # compiled once for all validations of a run
def _distances(method, params, batch, marks, boxes, real) -> dict[str, Any]:
    """Sums over the real pairs of a batch."""
    maps = method.maps(params, batch)
    annotated, counts = attention_alignment.annotated_isd(
        maps, marks & maps.mask[:, None], boxes & maps.other_mask[:, None]
    )
    over = lambda each, which: jnp.sum(jnp.where(which, each, 0))
    return {
        "language": over(attention_alignment.singular(maps), real),
        "vision": over(attention_alignment.singular(maps.turned()), real),
        "annotated": over(annotated, real & counts),
        "annotated_pairs": jnp.sum(real & counts),
        "pairs": jnp.sum(real),
    }
