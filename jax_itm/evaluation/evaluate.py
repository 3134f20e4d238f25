"""From a split to its retrieval numbers: encode, stream blocks of scores, count ranks on the devices."""

import time
from collections.abc import Callable
from typing import Any

import jax

from jax_itm.errors import UserError
from jax_itm.inference.matcher import Matcher
from jax_itm.inference.token_cache import attached, cached_sides
from jax_itm.metrics import retrieval
from jax_itm.types import PyTree

COMPARE = jax.jit(retrieval.compare)


def check_fits(config, split) -> None:
    """Raises UserError where a split's inputs are not those that `config` describes."""
    if split.modality != "regions":
        return
    wanted, where = config.data.region_dim, f"{split.name}/{split.split}"
    if split.region_dim != wanted:
        raise UserError(
            f"{where}: regions of size {split.region_dim}, but this run was trained on size {wanted}"
            " (config.data.region_dim)"
        )
    if split.max_regions > config.data.max_regions:
        raise UserError(
            f"config.data.max_regions={config.data.max_regions}: an image of {where} has"
            f" {split.max_regions} regions"
        )
    if config.image.boxes and not split.has_boxes:
        raise UserError(f"config.image.boxes: {where} has no boxes; set it to False")


def evaluate(matcher: Matcher, split, protocol: str = "full") -> dict[str, Any]:
    """Retrieval in both directions over a whole split, every pair scored.

    Args:
        matcher: the run.
        split: an opened split (`data.builders.open_split`).
        protocol: "full", every image against every caption; "folds", the mean of five equal folds
            of images (COCO 1K).

    Returns:
        {"protocol": {..}, "i2t": {"r1", "r5", "r10", "medr", ..}, "t2i": {..}, "rsum", "cost": {"pairs",
        "seconds"}}; recalls are percentages, the seconds those of encoding and scoring.
    """
    start = time.perf_counter()
    numbers = retrieval.evaluate(
        score_blocks(matcher, *encoded(matcher, split)),
        split.caption_image,
        protocol=protocol,
        images_per_block=matcher.method.block_images,
        compare=COMPARE,
    )
    folds = 5 if protocol == "folds" else 1
    pairs = len(split) * len(split.caption_image) // folds
    cost = {"pairs": pairs, "seconds": time.perf_counter() - start}
    return {
        "protocol": described(matcher, split, matcher.method.score_name, folds),
        **numbers,
        "cost": cost,
    }


def encoded(matcher: Matcher, split) -> tuple[PyTree, PyTree]:
    """A split's encoded images and captions."""
    check_fits(matcher.config, split)
    if cached_sides(matcher.config) and not split.tokens:
        [split] = attached(matcher.config, matcher.params, matcher.tokenizer, split, needed=False)
    images = matcher.encode_records(split.image(i) for i in range(len(split)))
    return images, matcher.encode_texts(split.captions(), split.tokens.get("text"))


def score_blocks(
    matcher: Matcher, images: PyTree, texts: PyTree, first: bool = False
) -> Callable[..., jax.Array]:
    """(image range, caption range) -> their scores, or those of a `first` pass, on the devices."""
    rows = lambda tree, at: jax.tree.map(lambda x: x[slice(*at)], tree)
    return lambda i, t: matcher.score_block(rows(images, i), rows(texts, t), first)


def described(matcher: Matcher, split, score: str, folds: int = 1) -> dict[str, Any]:
    """The protocol of a result."""
    config = matcher.config
    return {
        "dataset": split.name,
        "split": split.split,
        "images": len(split),
        "captions": len(split.caption_image),
        "folds": folds,
        "score": score,
        "ties": "pessimistic",
        "preset": matcher.method.preset,
        "run": config.name,
        "seed": config.seed,
        "step": matcher.step,
    }
