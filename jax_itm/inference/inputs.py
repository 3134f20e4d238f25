"""A user's images and texts as padded batches of the form that a run was trained on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax import dtypes

from jax_itm.config import Facts
from jax_itm.data.image_transforms import image_transform_of
from jax_itm.data.images import collate_images, read_picture
from jax_itm.data.sources.precomp import as_boxes, to_float16
from jax_itm.data.token_cache import Tokens, pad_tokens
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.types import Config, Inputs

Record = Mapping[str, Any]


class PaddedBatch(NamedTuple):
    """The inputs of one encoding step, of which only the first `count` rows are real."""

    inputs: Inputs
    count: int


def image_records(
    config: Config, facts: Facts, images: Sequence[Any] | np.ndarray, boxes: Sequence[np.ndarray] | None
) -> Iterator[Record]:
    """Yields {"pixels"} or {"regions", "boxes"} of each image that `Matcher.encode_images` takes.

    Raises:
        UserError: a file cannot be read, or an image is not what the run was trained on.
    """
    if config.data.modality == "pixels":
        for k, image in enumerate(images):
            yield {"pixels": _pixels(image, f"image {k}", config.data.max_pixels)}
        return
    for image in images:
        if isinstance(image, str | Path):
            raise UserError(
                f"{image}: this run was trained on region features, not on picture files;"
                " train one on pictures, such as configs/own.py"
            )
    if boxes is None and config.image.boxes:
        raise UserError("boxes: this run was trained on the boxes of the regions, too")
    if boxes is not None and len(boxes) != len(images):
        raise UserError(f"boxes: of {len(boxes)} images, but there are {len(images)}")
    for k, image in enumerate(images):
        regions = _regions(image, f"image {k}", facts.region_dim)
        yield {"regions": regions, "boxes": _boxes(boxes, k, len(regions))}


def _pixels(image: Any, where: str, max_pixels: int) -> np.ndarray:
    if isinstance(image, str | Path):
        return read_picture(image, max_pixels=max_pixels)
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        kind = f"{pixels.dtype} {pixels.shape}"
        raise UserError(f"{where}: this run was trained on pixels, uint8 (h, v, 3), not {kind}")
    return pixels


def _regions(image: Any, where: str, size: int) -> np.ndarray:
    regions = np.asarray(image)
    if regions.ndim != 2 or regions.shape[1] != size:
        raise UserError(f"{where}: this run was trained on regions (r, {size}), not {regions.shape}")
    if not len(regions) or not dtypes.issubdtype(regions.dtype, np.number):
        kind = f"{len(regions)} regions of {regions.dtype}"
        raise UserError(f"{where}: {kind}, must be at least one region of numbers")
    return to_float16(regions, where)


def _boxes(boxes: Sequence[np.ndarray] | None, k: int, regions: int) -> np.ndarray:
    if boxes is None:
        return np.zeros((regions, 4), np.float32)
    array = as_boxes(boxes[k], f"boxes of image {k}")
    if len(array) != regions:
        raise UserError(f"boxes of image {k}: {len(array)}, but it has {regions} regions")
    return array


def image_batches(
    config: Config, facts: Facts, records: Iterable[Record], batch_size: int
) -> Iterator[PaddedBatch]:
    """Batches of image records; the last record fills the last batch up.

    Records are taken one at a time, so that a few pictures are in memory at their full size, not a batch.
    """
    transform = image_transform_of(config, facts)
    records = iter(records)
    for first in records:
        rows = chain([first], islice(records, batch_size - 1))
        inputs = collate_images(rows, config.data.max_regions, transform)
        count = len(next(iter(inputs.values())))
        filled = np.minimum(np.arange(batch_size), count - 1)
        if count < batch_size:
            inputs = {name: array[filled] for name, array in inputs.items()}
        yield PaddedBatch(inputs, count)


def pixel_batches(pixels: np.ndarray, batch_size: int) -> Iterator[PaddedBatch]:
    """Batches of pictures that have their size already; the last one fills the last batch up.

    Args:
        pixels: uint8 (n, h, v, 3), as `transform_image` returns them.
        batch_size: rows of a batch.
    """
    for start in range(0, len(pixels), batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), len(pixels) - 1)
        yield PaddedBatch({"pixels": pixels[rows]}, min(len(pixels) - start, batch_size))


def text_batches(
    tokenizer: Tokenizer, captions: Sequence[str], tokens: Tokens | None, max_words: int, batch_size: int
) -> Iterator[PaddedBatch]:
    """Batches of captions and their cached `tokens`, if any; the last caption fills the last batch up."""
    for start in range(0, len(captions), batch_size):
        rows = [min(start + k, len(captions) - 1) for k in range(batch_size)]
        ids, mask = tokenizer.encode([captions[k] for k in rows], max_words)
        inputs = {"ids": ids, "mask": mask}
        if tokens is not None:
            inputs["features"] = pad_tokens([tokens[k] for k in rows], max_words)
        yield PaddedBatch(inputs, min(len(captions) - start, batch_size))
