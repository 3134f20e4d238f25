"""Finds the nearest items of other images in a split, by a run's score, for a matcher's pools."""

import numpy as np

from jax_itm.data.pools import Neighbours
from jax_itm.data.split import Split
from jax_itm.errors import UserError
from jax_itm.evaluation.rerank import first_pass
from jax_itm.inference.matcher import Matcher


def neighbours(matcher: Matcher, split: Split, top: int) -> Neighbours:
    """The `top` captions nearest each image, and images nearest each caption, its own left out.

    The scores are seen in blocks, once; memory is that of the neighbours.

    Args:
        matcher: a run that ranks fast.
        split: an opened split.
        top: neighbours of each item.

    Raises:
        UserError: the split has too few items.
    """
    own = int(np.max(np.bincount(split.caption_image)))
    least = min(len(split), len(split.caption_image)) - own
    if not 1 <= top <= least:
        raise UserError(f"--top {top}: must be from 1 to {least}, for {len(split):,} images")
    found = first_pass(matcher, split, top + own).top
    image = np.arange(len(split))[:, None]
    captions = _without(found.captions, split.caption_image[found.captions] == image, top)
    images = _without(found.images, found.images == split.caption_image[:, None], top)
    return Neighbours(captions, images)


def _without(items: np.ndarray, is_own: np.ndarray, top: int) -> np.ndarray:
    """The first `top` of each row's items that are not its own, in their order."""
    order = np.argsort(is_own, axis=1, kind="stable")[:, :top]
    return np.take_along_axis(items, order, axis=1).astype(np.int32)
