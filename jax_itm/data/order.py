"""The order of training: which caption stands at each position of an endless stream, from the seed alone.

A stream is one epoch after another, each with every caption once. Small sets have a permutation of all
captions an epoch. Large ones, written in shards, have two levels, so that no process holds a table of all
rows and only a few shards are read at a time: the shards of an epoch are permuted, and consecutive ones form
pools of about `POOL` captions, each of which is permuted as a whole.
"""

import functools
from typing import NamedTuple

import numpy as np

POOL = 65_536  # captions that are shuffled together


@functools.lru_cache(maxsize=8)
def permutation(size: int, *key: int) -> np.ndarray:
    """The permutation of `size` numbers that `key` decides; it is the same in every version of numpy."""
    # RandomState, because numpy keeps its streams the same; those of a Generator may change with its version.
    bits = np.random.MT19937(np.random.SeedSequence(key))
    return np.random.RandomState(bits).permutation(size)


def captions_at(size: int, seed: int, positions: np.ndarray) -> np.ndarray:
    """The caption numbers int64 at ascending `positions` of the stream of a set of `size` captions."""
    epochs, offsets = np.divmod(positions, size)
    captions = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        rows = epochs == epoch
        captions[rows] = permutation(size, seed, int(epoch))[offsets[rows]]
    return captions


class ShardCaptions(NamedTuple):
    """Captions by their place.

    Attributes:
        shard: int64 (n,), the number of the shard.
        caption: int64 (n,), the caption's number in its shard.
    """

    shard: np.ndarray
    caption: np.ndarray


class ShardOrder:
    """The stream of a set in shards.

    Args:
        sizes: int (shards,), the number of captions of each shard; at least one each.
        seed: decides the order.
        pool: captions that are shuffled together; a shard is never divided between pools.
    """

    def __init__(self, sizes: np.ndarray, seed: int, pool: int = POOL):
        self._sizes = np.asarray(sizes, np.int64)
        self._seed = seed
        self._pool = pool

    def at(self, positions: np.ndarray) -> ShardCaptions:
        """The captions at some positions of the stream."""
        shards = np.empty(len(positions), np.int64)
        captions = np.empty(len(positions), np.int64)
        epochs, offsets = np.divmod(positions, int(self._sizes.sum()))
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            shards[rows], captions[rows] = self._of_epoch(int(epoch), offsets[rows])
        return ShardCaptions(shards, captions)

    def _of_epoch(self, epoch: int, offsets: np.ndarray) -> ShardCaptions:
        order = permutation(len(self._sizes), self._seed, epoch, 0)
        ends = np.cumsum(self._sizes[order])
        starts = ends - self._sizes[order]
        _, first_of_pool = np.unique(starts // self._pool, return_index=True)
        pool_starts = starts[first_of_pool]
        pool_sizes = np.diff(pool_starts, append=ends[-1])
        pools = np.searchsorted(pool_starts, offsets, "right") - 1
        mixed = np.empty(len(offsets), np.int64)
        for pool in np.unique(pools):
            rows = pools == pool
            shuffled = permutation(int(pool_sizes[pool]), self._seed, epoch, 1 + int(pool))
            mixed[rows] = pool_starts[pool] + shuffled[offsets[rows] - pool_starts[pool]]
        places = np.searchsorted(ends, mixed, "right")
        return ShardCaptions(order[places], mixed - starts[places])
