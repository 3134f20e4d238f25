"""From a split to training batches: the global batch at step k is a pure function of (seed, k).

The integer k is therefore the whole state of the data: a run can resume at any step, on another number of
hosts, and see the same batches.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import grain
import numpy as np

from jax_itm.data.augment import augment_image
from jax_itm.data.batch_options import BatchOptions
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.images import collate_images
from jax_itm.data.mixture import MixedPairs, Mixture
from jax_itm.data.pairs import PairSource, pair_source
from jax_itm.data.readers import read_in_processes
from jax_itm.data.split import Split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.types import Batch

MAX_STEPS = 2**40  # more than any run takes: a Grain dataset must have a length


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
    split: Split | Mixture,
    tokenizer: Tokenizer,
    options: BatchOptions,
    *,
    first_step: int = 0,
    workers: int = 0,
    shard: ProcessShard = ONLY_PROCESS,
) -> BatchIterator:
    """Endless training batches (see `jax_itm.types`), prefetched in the background.

    Args:
        split: the training split, or several with weights.
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


class _TrainSource:
    """Random access to a process's rows of the batches: item k is the batch at step `first_step + k`."""

    def __init__(
        self,
        split: Split | Mixture,
        tokenizer: Tokenizer,
        options: BatchOptions,
        first_step: int,
        shard: ProcessShard,
    ):
        self._pairs: PairSource
        if isinstance(split, Mixture):
            self._pairs = MixedPairs(split, tokenizer, options)
        else:
            self._pairs = pair_source(split, tokenizer, options)
        self._options = options
        self._first_step = first_step
        self._rows = options.batch_size // shard.count
        self._first_row = shard.index * self._rows

    def __len__(self) -> int:
        return MAX_STEPS

    def __getitem__(self, index: int) -> Batch:
        options = self._options
        step = self._first_step + int(index)
        first = step * options.batch_size + self._first_row
        positions = np.arange(first, first + self._rows)
        pairs = self._pairs.at(positions)
        batch = {
            "image": collated(pairs.records, positions, options),
            "text": pairs.text,
            "image_id": pairs.images.astype(np.int32),
        }
        return batch if pairs.sets is None else batch | {"set_id": pairs.sets}


def collated(
    records: list[dict[str, np.ndarray]], positions: np.ndarray, options: BatchOptions
) -> dict[str, np.ndarray]:
    """Records at some positions of the stream as `batch["image"]`; the positions decide the augmentation."""
    transform = options.transform
    if options.augmentation:
        records = [
            {"pixels": augment_image(record["pixels"], transform, options.augmentation, options.seed, int(k))}
            for k, record in zip(positions, records, strict=True)
        ]
        transform = ImageTransform(transform.shape)
    return collate_images(records, options.max_regions, transform)
