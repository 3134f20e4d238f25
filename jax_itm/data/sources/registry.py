"""The data sets that `prepare` knows, by name, and what reads the raw files of each."""

from collections.abc import Callable
from functools import partial

from jax_itm.data.scenes.render import read_scenes
from jax_itm.data.sources.bottom_up import read_bottom_up
from jax_itm.data.sources.coco_tfds import read_coco_captions
from jax_itm.data.sources.folder import read_folder
from jax_itm.data.sources.karpathy import PUBLISHED, read_published
from jax_itm.data.sources.precomp import read_precomp
from jax_itm.data.sources.raw import Raw
from jax_itm.data.sources.uniter import read_uniter
from jax_itm.errors import UserError

# A reader takes the path that --source names; those of pictures also take `max_pixels`.
READERS: dict[str, Callable[..., Raw]] = {
    "precomp": read_precomp,
    "folder": read_folder,
    "uniter": read_uniter,
    "bottom_up_tsv": read_bottom_up,
    **{name: partial(read_published, name) for name in PUBLISHED},
}
OF_PICTURES = ("folder", *PUBLISHED)
# What reads a data set that is prepared without --source.
WITHOUT_SOURCE: dict[str, Callable[..., Raw]] = {"scenes": read_scenes, "coco": read_coco_captions}

NAMES = ("scenes", *READERS)


def check_name(name: str) -> None:
    """Raises UserError where no data set has this name."""
    if name not in NAMES:
        raise UserError(f"data set {name!r}: must be one of {', '.join(NAMES)}")
