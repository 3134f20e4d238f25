"""The pairs of a split in the order of training, whether its captions are in memory or in shards."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from jax_itm.data.batch_options import BatchOptions
from jax_itm.data.order import ShardOrder, captions_at
from jax_itm.data.pools import pool_captions
from jax_itm.data.shards import Shards
from jax_itm.data.split import Split
from jax_itm.data.token_cache import pad_tokens
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError


class Pairs(NamedTuple):
    """Some pairs of an image and a caption.

    Attributes:
        records: of each image, as `collate_images` takes them.
        images: int64 (n,), the number of each image in its split.
        text: `batch["text"]` (see `jax_itm.types`).
        sets: int32 (n,), the number of the set of each pair; None where there is one set.
    """

    records: list[dict[str, np.ndarray]]
    images: np.ndarray
    text: dict[str, np.ndarray]
    sets: np.ndarray | None = None


@runtime_checkable
class PairSource(Protocol):
    """Random access to the endless stream of a split's pairs."""

    def at(self, positions: np.ndarray) -> Pairs:
        """The pairs at positions of the stream."""
        ...


def pair_source(split: Split, tokenizer: Tokenizer, options: BatchOptions) -> PairSource:
    """The stream of a split's pairs, in the order that the seed decides.

    Raises:
        UserError: pools are asked of a set in shards.
    """
    if split.shards and options.pools:
        raise UserError(
            f"config.mining.neighbours: {split.name} is in shards, whose pairs come in their order"
        )
    if split.shards:
        return _PairsInShards(split, split.shards, tokenizer, options)
    return _PairsInMemory(split, tokenizer, options)


class _PairsInMemory:
    def __init__(self, split: Split, tokenizer: Tokenizer, options: BatchOptions):
        self._split = split
        self._options = options
        # All captions at once: 0.1 GB for COCO, and no step waits for the tokenizer.
        self._ids, self._mask = tokenizer.encode(split.captions(), options.max_words)

    def at(self, positions: np.ndarray) -> Pairs:
        """The pairs at ascending positions of the stream."""
        captions = self._captions(positions)
        images = self._split.caption_image[captions].astype(np.int64)
        records = [self._split.image(int(image)) for image in images]
        text = {"ids": self._ids[captions], "mask": self._mask[captions]}
        return Pairs(records, images, text | _features(self._split, captions, self._options))

    def _captions(self, positions: np.ndarray) -> np.ndarray:
        """The captions at positions of the stream; in pools, those of one batch."""
        size, seed, pools = len(self._ids), self._options.seed, self._options.pools
        if pools is None:
            return captions_at(size, seed, positions)
        batch = self._options.batch_size
        step = int(positions[0]) // batch
        count = batch // pools.size
        anchors = captions_at(size, seed, np.arange(step * count, (step + 1) * count))
        return pool_captions(anchors, self._split.caption_image, pools, seed, step)[positions - step * batch]


class _PairsInShards:
    """Holds neither captions nor their ids: those of a batch are encoded with it."""

    def __init__(self, split: Split, shards: Shards, tokenizer: Tokenizer, options: BatchOptions):
        self._split = split
        self._shards = shards
        self._tokenizer = tokenizer
        self._options = options
        self._order = ShardOrder(np.diff(shards.first_caption), options.seed)

    def at(self, positions: np.ndarray) -> Pairs:
        """The pairs at ascending positions of the stream."""
        places = self._order.at(positions)
        images = np.empty(len(positions), np.int64)
        texts = []
        for row, (shard, caption) in enumerate(zip(*places, strict=True)):
            table = self._shards.captions_of(int(shard))
            texts.append(table.texts[caption])
            images[row] = self._shards.first_image[shard] + table.image[caption]
        ids, mask = self._tokenizer.encode(texts, self._options.max_words)
        captions = self._shards.first_caption[places.shard] + places.caption
        records = [self._split.image(int(image)) for image in images]
        text = {"ids": ids, "mask": mask}
        return Pairs(records, images, text | _features(self._split, captions, self._options))


def _features(split: Split, captions: np.ndarray, options: BatchOptions) -> dict[str, np.ndarray]:
    """The tokens that a frozen encoder computed beforehand, where there are any."""
    tokens = split.tokens.get("text")
    if not tokens:
        return {}
    return {"features": pad_tokens([tokens[int(k)] for k in captions], options.max_words)}
