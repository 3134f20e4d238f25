"""The options of an evaluation, by name: protocols, scores and measures.

A protocol says which folds of the images are ranked separately.
"""

from typing import NamedTuple

from jax_itm.errors import UserError


class Protocol(NamedTuple):
    """How a split is evaluated.

    Attributes:
        folds: into how many equal, consecutive parts the images are divided; results are their mean.
        images: how many images the split must have; 0 allows any number.
        captions: how many captions it must have; 0 allows any number.
    """

    folds: int
    images: int = 0
    captions: int = 0


# COCO's are published numbers: under another size their names would say something false.
PROTOCOLS = {
    "full": Protocol(1),
    "folds": Protocol(5),
    "coco_5k": Protocol(1, 5000, 25000),
    "coco_1k": Protocol(5, 5000, 25000),
}

# How an image and a text are scored (`config.score`, `--score`).
SCORES = ("cosine", "maxmean", "mapped")

# What `evaluate --measures` computes beside recall, and what `--normalise` does to scores.
MEASURES = ("all_relevant", "hubness", "breakdown", "distractors", "eccv_caption")
NORMALISATIONS = ("csls", "inverted_softmax")


def folds_of(name: str, images: int, captions: int, where: str) -> int:
    """The number of folds of a protocol.

    Args:
        name: one of `PROTOCOLS`.
        images: of the split.
        captions: of the split.
        where: the name of the split, for errors.

    Raises:
        UserError: there is no such protocol, or the split is of another size than it needs.
    """
    if name not in PROTOCOLS:
        raise UserError(f"protocol {name!r}: must be one of {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if protocol.images and (images, captions) != (protocol.images, protocol.captions):
        raise UserError(
            f"protocol {name!r}: is published for {protocol.images:,} images with {protocol.captions:,}"
            f" captions, but {where} has {images:,} with {captions:,}; without that claim: 'full' or 'folds'"
        )
    if images % protocol.folds:
        raise UserError(
            f"protocol {name!r}: the {images:,} images of {where} cannot be divided into {protocol.folds}"
            " equal folds"
        )
    return protocol.folds
