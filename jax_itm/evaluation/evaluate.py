"""From a split to its retrieval metrics: encode, score block by block, count ranks on the devices."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from jax_itm.config import Facts
from jax_itm.data.split import Split
from jax_itm.errors import UserError
from jax_itm.evaluation.results import QUERIES, Queries
from jax_itm.inference.matcher import Matcher
from jax_itm.inference.token_cache import attach_tokens, cached_sides
from jax_itm.metrics import Ranks, RetrievalCounter, compare
from jax_itm.progress import track
from jax_itm.protocols import folds_of
from jax_itm.types import Array, Config, PyTree

_compare_on_devices = jax.jit(compare)


class EncodedSplit(NamedTuple):
    """The encoded images and captions of a split."""

    images: PyTree
    captions: PyTree

    def block(self, rows: slice, columns: slice) -> tuple[PyTree, PyTree]:
        """The images and captions of one block of scores."""
        part = lambda tree, index: jax.tree.map(lambda array: array[index], tree)
        return part(self.images, rows), part(self.captions, columns)


@runtime_checkable
class Measure(Protocol):
    """A number beside recall, from the scores that recall is counted from.

    Attributes:
        name: its key in a result.
    """

    name: str

    def add(self, rows: slice, columns: slice, scores: np.ndarray) -> None:
        """Takes in the scores (rows, columns) of a block; each comes once."""
        ...

    def result(self, ranks: Ranks) -> dict[str, Any]:
        """The numbers, after all blocks and with all ranks."""
        ...


def evaluate(
    matcher: Matcher, split: Split, protocol: str = "full", measures: Sequence[Measure] = ()
) -> dict[str, Any]:
    """Retrieval in both directions over a split, with a score for every image and caption.

    Args:
        matcher: the run.
        split: an opened split (`data.prepared.open_split`).
        protocol: "full", every image against every caption; "folds", the mean of five equal folds of the
            images; "coco_5k" and "coco_1k", the same two, of splits of the published size alone.
        measures: what else to compute of the same scores (`measures.py`); only under protocols of one fold.

    Returns:
        {"protocol": {..}, "i2t": {"r1", "r5", "r10", "medr", ..}, "t2i": {..}, "rsum", "queries": `Queries`,
        "cost": {"pairs", "seconds"}}, and what the measures give, by their names. Recalls are percentages;
        the seconds are those of encoding and scoring.

    Raises:
        UserError: the split is not what the run was trained on, a score is not finite, or the split is not of
            a size that the protocol takes.
    """
    folds = split_folds(split, protocol)
    start = time.perf_counter()
    encoded = encode_split(matcher, split)
    counter = count(matcher, encoded, split.caption_image, folds, measures)
    ranks = counter.ranks()
    pairs = len(split) * len(split.caption_image) // folds
    cost = {"pairs": pairs, "seconds": time.perf_counter() - start}
    return {
        "protocol": describe(matcher, split, matcher.method.score_name, folds),
        **counter.result(),
        QUERIES: Queries(ranks, split.caption_image),
        **{measure.name: measure.result(ranks) for measure in measures},
        "cost": cost,
    }


def split_folds(split: Split, protocol: str) -> int:
    """The number of folds of a split under a protocol; UserError if the protocol does not take the split."""
    return folds_of(protocol, len(split), len(split.caption_image), f"{split.name}/{split.split}")


def count(
    matcher: Matcher,
    encoded: EncodedSplit,
    caption_image: np.ndarray,
    folds: int = 1,
    measures: Sequence[Measure] = (),
) -> RetrievalCounter:
    """A counter that was fed all scores, as were the measures.

    Without measures the scores stay on the devices, except for blocks with positives.
    """
    counter = device_counter(caption_image, folds)
    for rows, columns, scores in score_blocks(matcher, encoded, counter):
        counter.add(rows, columns, scores)
        for measure in measures:
            measure.add(rows, columns, np.asarray(scores))
    return counter


def score_blocks(
    matcher: Matcher, encoded: EncodedSplit, counter: RetrievalCounter
) -> Iterator[tuple[slice, slice, Array]]:
    """The images, the captions and the scores of each block that a counter is to be fed, in its order."""
    blocks = list(counter.blocks(matcher.method.block_images))
    for rows, columns in track(blocks, len(blocks), "scoring"):
        yield rows, columns, matcher.score_block(*encoded.block(rows, columns))


def device_counter(caption_image: np.ndarray, folds: int = 1) -> RetrievalCounter:
    """A counter that compares scores on the devices."""
    return RetrievalCounter(caption_image, folds, _compare_on_devices)


def encode_split(matcher: Matcher, split: Split) -> EncodedSplit:
    """Encodes all images and captions of a split, or reads their cached tokens if there are any."""
    check_fits(matcher.config, matcher.facts, split)
    if cached_sides(matcher.config) and not split.tokens:
        [split] = attach_tokens(matcher.description, matcher.params, (split,), required=False)
    records = (split.image(k) for k in range(len(split)))
    images = matcher.encode_records(track(records, len(split), f"encoding the images of {split.split}"))
    return EncodedSplit(images, matcher.encode_texts(split.captions(), split.tokens.get("text")))


def check_fits(config: Config, facts: Facts, split: Split) -> None:
    """Raises UserError if the inputs of a split are not those that a run was trained on."""
    if split.modality != "regions":
        return
    name = f"{split.name}/{split.split}"
    if split.region_dim != facts.region_dim:
        raise UserError(
            f"{name}: regions of size {split.region_dim}, but this run was trained on size {facts.region_dim}"
        )
    if split.max_regions > config.data.max_regions:
        raise UserError(
            f"config.data.max_regions={config.data.max_regions}: an image of {name} has"
            f" {split.max_regions} regions"
        )
    if config.image.boxes and not split.has_boxes:
        raise UserError(f"config.image.boxes: {name} has no boxes; set it to False")


def precision_of(config: Config) -> str:
    """With what precision embeddings and scores are computed, in words."""
    model = config.dtype if config.precision == "default" else f"{config.dtype}, {config.precision}"
    return f"encoders {model}, scores float32" if "head" in config else f"model {model}"


def describe(matcher: Matcher, split: Split, score: str, folds: int = 1) -> dict[str, Any]:
    """The protocol of a result."""
    return {
        "dataset": split.name,
        "split": split.split,
        "images": len(split),
        "captions": len(split.caption_image),
        "folds": folds,
        "score": score,
        "ties": "pessimistic",
        "precision": precision_of(matcher.config),
        "preset": matcher.method.label,
        "run": matcher.config.name,
        "seed": matcher.config.seed,
        "step": matcher.step,
    }
