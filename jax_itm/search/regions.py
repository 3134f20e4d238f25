"""Finds the regions of a picture that match each word, for runs that score by token sets."""

import math
from typing import NamedTuple

import numpy as np

from jax_itm.config import Facts
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.sources.raw import caption
from jax_itm.errors import UserError
from jax_itm.search.index import SearchIndex
from jax_itm.types import Config


class WordRegions(NamedTuple):
    """A caption's words over a picture's patches.

    Attributes:
        words: n of them, as they stand in the caption; word pieces where the run reads those.
        boxes: float (r, 4), x1 y1 x2 y2 of each patch in units of the picture's width and height.
        cosines: float32 (n, r), of each word's token with each patch's.
    """

    words: list[str]
    boxes: np.ndarray
    cosines: np.ndarray


def word_regions(index: SearchIndex, text: str, picture: int) -> WordRegions:
    """The regions of a picture of the index that answer to the words of a text.

    Raises:
        UserError: the run has no tokens, its tokens are no patches, or there is no such picture.
    """
    if not index.has_tokens:
        raise UserError(
            "regions: this run scores by one vector an item; an index with --score maxmean has them"
        )
    width, height = index.store.size(picture)
    matcher = index.matcher
    [tokens] = index.store.tokens("picture", [picture])
    boxes, first = patch_boxes(matcher.config, matcher.facts, index.transform, (height, width), len(tokens))
    text = caption(text, "caption")
    encoded = matcher.encode_texts([text])
    [spans] = matcher.tokenizer.spans([text], matcher.config.data.max_words)
    rows = [k for k, (start, end) in enumerate(spans) if end > start]
    words = [text[spans[k][0] : spans[k][1]] for k in rows]
    cosines = np.asarray(encoded.tokens[0], np.float32)[rows] @ tokens[first:].T
    return WordRegions(words, boxes, cosines)


def patch_boxes(
    config: Config, facts: Facts, transform: ImageTransform, size: tuple[int, int], tokens: int
) -> tuple[np.ndarray, int]:
    """Where the patches of a picture are in it, and how many learnt tokens stand before them.

    Args:
        config: of the run.
        facts: of the run.
        transform: how it brings pictures to one size.
        size: height and width of the picture in pixels.
        tokens: of the picture.

    Returns:
        float (r, 4): x1 y1 x2 y2 in [0, 1], row by row; and the number of the other tokens.

    Raises:
        UserError: the tokens are no grid of patches.
    """
    learnt = 0
    if config.image.name == "pretrained":
        architecture = facts.architecture("image")
        learnt = int(architecture.get("class_token", False)) + int(architecture.get("registers", 0))
    patches = tokens - learnt
    shape = transform.shape
    rows = round(math.sqrt(patches * shape[0] / shape[1])) if len(shape) == 2 and patches > 0 else 0
    if not rows or patches % rows:
        raise UserError(f"regions: the {tokens} tokens of a picture are no grid of patches")
    height, width = (
        _extent(size, transform, axis, count) for axis, count in enumerate((rows, patches // rows))
    )
    top, left = np.meshgrid(height[:-1], width[:-1], indexing="ij")
    bottom, right = np.meshgrid(height[1:], width[1:], indexing="ij")
    boxes = np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4)
    return np.clip(boxes, 0, 1), learnt


def _extent(size: tuple[int, int], transform: ImageTransform, axis: int, count: int) -> np.ndarray:
    """The borders of `count` patches along an axis, as fractions of the picture; outside it in padding."""
    resized = size[axis]
    if len(transform.resize) == 2:
        resized = transform.resize[axis]
    elif transform.resize:
        resized = int(transform.resize[0] * size[axis] / min(size))
    cropped = transform.shape[axis]
    return ((resized - cropped) / 2 + np.linspace(0, cropped, count + 1)) / resized
