"""The list of data sets that `prepare` knows, by name, with the reader of each."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jax_itm.data.scenes.render import read_scenes
from jax_itm.data.sources import huggingface, webdataset
from jax_itm.data.sources.bottom_up import read_bottom_up
from jax_itm.data.sources.coco_tfds import read_coco_captions
from jax_itm.data.sources.folder import read_folder
from jax_itm.data.sources.huggingface import read_huggingface
from jax_itm.data.sources.karpathy import PUBLISHED, read_published
from jax_itm.data.sources.precomp import read_precomp
from jax_itm.data.sources.raw import Raw
from jax_itm.data.sources.uniter import read_uniter
from jax_itm.data.sources.webdataset import read_webdataset
from jax_itm.errors import UserError


class DataSet(NamedTuple):
    """How a data set is read.

    Attributes:
        read_source: reads the path that --source names; None if it takes no source.
        read_alone: reads or generates it without --source; None if it needs one.
        is_of_pictures: whether its readers also take `max_pixels`.
        source_name: what --source says, the same in every working directory, where it need not be a path.
        in_shards: whether its readers also take `columns`, and what they return has `parts`.
    """

    read_source: Callable[..., Raw] | None
    read_alone: Callable[..., Raw] | None = None
    is_of_pictures: bool = False
    source_name: Callable[[str], str] | None = None
    in_shards: bool = False


DATA_SETS: dict[str, DataSet] = {
    "scenes": DataSet(None, read_scenes),  # generated
    "precomp": DataSet(read_precomp),  # SCAN's layout of region features
    "folder": DataSet(read_folder, is_of_pictures=True),  # pictures with captions
    "uniter": DataSet(read_uniter),  # region features of UNITER and IAIS
    "bottom_up_tsv": DataSet(read_bottom_up),  # region features of bottom-up attention and LXMERT
    # Parquet files, in a directory or on Hugging Face's hub; tar files. Written in shards.
    "huggingface": DataSet(read_huggingface, None, True, huggingface.source_name, True),
    "webdataset": DataSet(read_webdataset, None, True, webdataset.source_name, True),
    # As they are distributed.
    **{name: DataSet(partial(read_published, name), is_of_pictures=True) for name in PUBLISHED},
}
DATA_SETS["coco"] = DATA_SETS["coco"]._replace(read_alone=read_coco_captions)  # by TFDS


def data_set(name: str) -> DataSet:
    """The data set of this name.

    Raises:
        UserError: there is none.
    """
    if name not in DATA_SETS:
        raise UserError(f"data set {name!r}: must be one of {', '.join(DATA_SETS)}")
    return DATA_SETS[name]
