"""The options that determine a run's batches."""

from typing import NamedTuple

from jax_itm.data.augment import Augmentation
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.pools import Pools


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
