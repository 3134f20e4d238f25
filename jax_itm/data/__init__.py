"""Data sets, tokenizers and training batches; the only package that imports TensorFlow.

    from jax_itm import data

    data.prepare("folder", "data/mine", source="pictures")
    split = data.open_split("folder", "data/mine", "train", "pixels")
    tokenizer = data.Tokenizer.fit(split.captions())
    transform = data.ImageTransform((96, 96))
    options = data.BatchOptions(64, seed=0, max_words=32, max_regions=0, transform=transform)
    batches = data.train_batches(split, tokenizer, options)

Each name is imported when it is first used, so that inference, which needs the tokenizer and the image
transforms, never loads TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_itm.data.augment import Augmentation
    from jax_itm.data.batches import BatchOptions, ProcessShard, train_batches
    from jax_itm.data.image_transforms import ImageTransform, transform_image
    from jax_itm.data.images import collate_images, read_picture
    from jax_itm.data.preparation import prepare
    from jax_itm.data.prepared import describe, open_split, splits_of
    from jax_itm.data.split import Split
    from jax_itm.data.tokenizer import Tokenizer

_MODULES = {
    "augment": ("Augmentation",),
    "batches": ("BatchOptions", "ProcessShard", "train_batches"),
    "image_transforms": ("ImageTransform", "transform_image"),
    "images": ("collate_images", "read_picture"),
    "preparation": ("prepare",),
    "prepared": ("describe", "open_split", "splits_of"),
    "split": ("Split",),
    "tokenizer": ("Tokenizer",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Augmentation",
    "BatchOptions",
    "ImageTransform",
    "ProcessShard",
    "Split",
    "Tokenizer",
    "collate_images",
    "describe",
    "open_split",
    "prepare",
    "read_picture",
    "splits_of",
    "train_batches",
    "transform_image",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
