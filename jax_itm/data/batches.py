"""From a split to training batches: the global batch at step k is a pure function of (seed, k).

The integer k is therefore the whole state of the data: a run can resume at any step, on another number of
hosts, and see the same batches.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import grain
import numpy as np

from jax_itm.data.augment import Augmentation, augment_image
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.images import collate_images
from jax_itm.data.pools import Pools, pool_captions
from jax_itm.data.readers import read_in_processes
from jax_itm.data.split import Split
from jax_itm.data.token_cache import pad_tokens
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.types import Batch

MAX_STEPS = 2**40  # more than any run takes: a Grain dataset must have a length


class BatchOptions(NamedTuple):
    """What the batches of a run are made of, on every host alike.

    Attributes:
        batch_size: rows (pairs of an image and a caption) of the global batch.
        seed: decides the order and the augmentation; not negative.
        max_words: the length to which captions are padded or cut, [CLS] and [SEP] included.
        max_regions: the number of regions to which images are padded.
        transform: how pixels are brought to one size.
        augmentation: how pixels are augmented; None for not at all.
        pools: how the pairs of a pool are chosen; None where they follow one another in the stream.
    """

    batch_size: int
    seed: int
    max_words: int
    max_regions: int
    transform: ImageTransform
    augmentation: Augmentation | None = None
    pools: Pools | None = None


@runtime_checkable
class BatchIterator(Iterator[Batch], Protocol):
    """Batches, one after another, until it is closed."""

    def close(self) -> None:
        """Ends what reads them."""
        ...


class ProcessShard(NamedTuple):
    """Which contiguous slice of each global batch a process reads: the `index`-th of `count` equal ones."""

    index: int = 0
    count: int = 1


ONLY_PROCESS = ProcessShard()


def train_batches(
    split: Split,
    tokenizer: Tokenizer,
    options: BatchOptions,
    *,
    first_step: int = 0,
    workers: int = 0,
    shard: ProcessShard = ONLY_PROCESS,
) -> BatchIterator:
    """Endless training batches (see `jax_itm.types`), prefetched in the background.

    Args:
        split: the training split.
        tokenizer: encodes the captions.
        options: sizes, seed, image transform and augmentation.
        first_step: the step of the first batch: where to resume.
        workers: the number of processes that read; 0 reads in threads of this one. A script of one's own then
            needs `if __name__ == "__main__":`, as each of them imports it.
        shard: which rows of each global batch this process reads; `count` divides the batch size.
    """
    source = _TrainSource(split, tokenizer, options, first_step, shard)
    # An item is a whole batch, tens of megabytes of regions: a few in flight are plenty.
    read_options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
    dataset = grain.MapDataset.source(source).to_iter_dataset(read_options)
    return read_in_processes(dataset, workers) if workers else iter(dataset)  # type: ignore[return-value]  # Grain types no close


def batch_captions(size: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The caption numbers int (batch_size,) of the global batch at `step`.

    The epochs, each a permutation of `size` captions, follow one another without a gap: a batch that reaches
    the end of one continues with the next, so that no caption is dropped.
    """
    stream = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(stream, size)
    captions = np.empty(batch_size, np.int64)
    for epoch in range(epochs[0], epochs[-1] + 1):
        rows = epochs == epoch
        captions[rows] = _permutation(size, seed, epoch)[offsets[rows]]
    return captions


@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    # RandomState, because numpy keeps its streams the same; those of a Generator may change with its version.
    bits = np.random.MT19937(np.random.SeedSequence((seed, epoch)))
    return np.random.RandomState(bits).permutation(size)


class _TrainSource:
    """Random access to a process's rows of the batches: item k is the batch at step `first_step + k`."""

    def __init__(
        self, split: Split, tokenizer: Tokenizer, options: BatchOptions, first_step: int, shard: ProcessShard
    ):
        self._split = split
        self._options = options
        self._first_step = first_step
        self._rows = options.batch_size // shard.count
        self._first_row = shard.index * self._rows
        # All captions at once: 0.1 GB for COCO, and no step waits for the tokenizer.
        self._ids, self._mask = tokenizer.encode(split.captions(), options.max_words)

    def __len__(self) -> int:
        return MAX_STEPS

    def __getitem__(self, index: int) -> Batch:
        step = self._first_step + int(index)
        captions = self._captions(step)[self._first_row : self._first_row + self._rows]
        images = self._split.caption_image[captions]
        return {
            "image": self._images(images, step),
            "text": self._texts(captions),
            "image_id": images.astype(np.int32),
        }

    def _captions(self, step: int) -> np.ndarray:
        """The captions of the global batch."""
        options = self._options
        count, seed, pools = options.batch_size, options.seed, options.pools
        if pools is None:
            return batch_captions(len(self._ids), count, seed, step)
        anchors = batch_captions(len(self._ids), count // pools.size, seed, step)
        return pool_captions(anchors, self._split.caption_image, pools, seed, step)

    def _images(self, images: np.ndarray, step: int) -> dict[str, np.ndarray]:
        options = self._options
        transform = options.transform
        records = [self._split.image(int(image)) for image in images]
        if options.augmentation:
            first = step * options.batch_size + self._first_row  # position of row 0 in the stream
            records = [
                {"pixels": augment_image(record["pixels"], transform, options.augmentation, options.seed, k)}
                for k, record in enumerate(records, start=first)
            ]
            transform = ImageTransform(transform.shape)
        return collate_images(records, options.max_regions, transform)

    def _texts(self, captions: np.ndarray) -> dict[str, Any]:
        text = {"ids": self._ids[captions], "mask": self._mask[captions]}
        if tokens := self._split.tokens.get("text"):
            text["features"] = pad_tokens([tokens[int(k)] for k in captions], self._options.max_words)
        return text
