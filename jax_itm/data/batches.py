"""From a split to batches: the global batch at step k is a pure function of (seed, k).

So the data's whole state is the integer k: a run may go on from any step, on another number of
hosts, and see the same batches.
"""

import functools
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

from jax_itm.data.augment import Augment, augmented
from jax_itm.data.image_transforms import Frame
from jax_itm.data.images import collate_images
from jax_itm.data.split import Split
from jax_itm.data.token_cache import padded
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.types import Batch

STEPS = 2**40  # more than any run takes: a Grain dataset must have a length


@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    # RandomState, because numpy freezes its streams; a Generator's may change with its version.
    bits = np.random.MT19937(np.random.SeedSequence((seed, epoch)))
    return np.random.RandomState(bits).permutation(size)


def batch_captions(size: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The caption numbers int (batch_size,) of the global batch at `step`.

    The epochs, each a permutation of `size` captions, follow one another without a gap: a batch
    that meets the end of one goes on with the next, so that none is dropped.
    """
    stream = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(stream, size)
    chosen = np.empty(batch_size, np.int64)
    for epoch in range(epochs[0], epochs[-1] + 1):
        rows = epochs == epoch
        chosen[rows] = _permutation(size, seed, epoch)[places[rows]]
    return chosen


class _TrainSource:
    """Random access to this process's rows of the batches: item k is step `first_step + k`."""

    def __init__(self, split: Split, tokenizer: Tokenizer, settings: dict[str, Any]):
        self._split, self._settings = split, settings
        # All captions at once: 0.1 GB of COCO, and no step waits for the tokenizer.
        self._ids, self._mask = tokenizer.encode(split.captions(), settings["max_words"])

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, item: int) -> Batch:
        s = self._settings
        step = s["first_step"] + int(item)
        rows = s["batch_size"] // s["process_count"]
        captions = batch_captions(len(self._ids), s["batch_size"], s["seed"], step)
        first = s["process_index"] * rows
        captions = captions[first : first + rows]
        images = self._split.caption_image[captions]
        records = [self._split.image(int(image)) for image in images]
        frame = s["frame"]
        if augment := s["augment"]:
            place = step * s["batch_size"] + first  # of row 0 in the stream
            seen = lambda k: augmented(records[k]["pixels"], frame, augment, s["seed"], place + k)
            records, frame = [{"pixels": seen(k)} for k in range(rows)], Frame(frame.shape)
        text = {"ids": self._ids[captions], "mask": self._mask[captions]}
        if tokens := self._split.tokens.get("text"):
            text["features"] = padded([tokens[int(k)] for k in captions], s["max_words"])
        return {
            "image": collate_images(records, s["max_regions"], frame),
            "text": text,
            "image_id": images.astype(np.int32),
        }


def train_batches(
    split: Split,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    max_words: int,
    max_regions: int,
    frame: Frame,
    augment: Augment | None = None,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Endless training batches (see `jax_itm.types`), read ahead of the device.

    Args:
        split: the training split.
        tokenizer: encodes the captions.
        batch_size: rows of the global batch: caption-image pairs.
        seed: chooses the order; not negative.
        first_step: the step of the first batch.
        max_words: width of the captions, [CLS] and [SEP] included.
        max_regions: to which regions are padded.
        frame: how pixels are brought to one size.
        augment: what is changed in them; None for nothing.
        workers: processes that read; 0 reads in threads of this one.
        process_index: whose rows these are: a contiguous slice of each global batch.
        process_count: divides `batch_size`.
    """
    settings = {
        "batch_size": batch_size,
        "seed": seed,
        "first_step": first_step,
        "max_words": max_words,
        "max_regions": max_regions,
        "frame": frame,
        "augment": augment,
        "process_index": process_index,
        "process_count": process_count,
    }
    return _read_ahead(_TrainSource(split, tokenizer, settings), workers)


def _read_ahead(source: Any, workers: int) -> Iterator[Any]:
    # An item is a whole batch, tens of megabytes of regions: a few in flight are plenty.
    options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
    dataset = grain.MapDataset.source(source).to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers take settings from absl's flags
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        )
    return iter(dataset)
