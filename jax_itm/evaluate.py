"""From a split to its retrieval numbers: encode, stream blocks of scores, count ranks on the devices."""

from typing import Any

import jax

from jax_itm import retrieval
from jax_itm.infer import Matcher
from jax_itm.types import UserError

COMPARE = jax.jit(retrieval.compare)


def check_fits(config, split) -> None:
    """Raises UserError where a split's inputs are not those that `config` describes."""
    if split.view != "regions":
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
    """Retrieval in both directions over a whole split.

    Args:
        matcher: the run.
        split: an opened split (`data.builders.open_split`).
        protocol: "full", every image against every caption; "folds", the mean of five equal folds
            of images (COCO 1K).

    Returns:
        {"protocol": {..}, "i2t": {"r1", "r5", "r10", "medr", ..}, "t2i": {..}, "rsum"}; recalls are
        percentages.
    """
    check_fits(matcher.config, split)
    images = matcher.encode_records(split.image(i) for i in range(len(split)))
    texts = matcher.encode_texts(split.captions())
    numbers = retrieval.evaluate(
        lambda i, t: matcher.score_block(_rows(images, *i), _rows(texts, *t)),
        split.caption_image,
        protocol=protocol,
        compare=COMPARE,
    )
    config = matcher.config
    described = {
        "dataset": split.name,
        "split": split.split,
        "images": len(split),
        "captions": len(split.caption_image),
        "folds": 5 if protocol == "folds" else 1,
        "score": "cosine",
        "ties": "pessimistic",
        "preset": config.method.name,
        "run": config.name,
        "seed": config.seed,
        "step": matcher.step,
    }
    return {"protocol": described, **numbers}


def _rows(encoded, start: int, stop: int):
    return jax.tree.map(lambda x: x[start:stop], encoded)
