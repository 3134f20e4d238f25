"""Which data sets and raw layouts there are, by the name that `prepare` is given."""

from collections.abc import Callable
from functools import partial

from jax_itm.data.scenes import render
from jax_itm.data.sources.bottom_up import read_bottom_up
from jax_itm.data.sources.coco_tfds import read_coco_captions
from jax_itm.data.sources.folder import read_folder
from jax_itm.data.sources.karpathy import PUBLISHED, read_published
from jax_itm.data.sources.precomp import read_precomp
from jax_itm.data.sources.raw import Raw
from jax_itm.data.sources.uniter import read_uniter

READERS: dict[str, Callable[..., Raw]] = {
    "precomp": read_precomp,
    "folder": read_folder,
    "uniter": read_uniter,
    "bottom_up_tsv": read_bottom_up,
    **{name: partial(read_published, name) for name in PUBLISHED},
}


NAMES = ("scenes", *READERS)


OF_PICTURES = ("folder", *PUBLISHED)  # their readers take `max_pixels`


def _read_scenes() -> Raw:
    splits = {split: partial(render.generate, split, count, 0) for split, count in render.SPLITS.items()}
    region_dim = next(render.generate("train", 1, 0))["regions"].shape[1]
    return Raw(splits, ("image", "regions", "boxes", "phrases"), region_dim)


WITHOUT_SOURCE: dict[str, Callable[..., Raw]] = {"scenes": _read_scenes, "coco": read_coco_captions}
