"""Directories of published encoders, whoever saved them: Hugging Face's libraries, open_clip or big_vision.

Whatever the layout, the fields and the names are those of the transformers library.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jax_itm.data.sources.raw import read_table
from jax_itm.pretrained import open_clip
from jax_itm.pretrained.big_vision import (
    big_vision_arrays,
    big_vision_description,
    big_vision_file,
    is_big_vision,
)
from jax_itm.pretrained.files import DESCRIPTION, read_weights
from jax_itm.pretrained.mapper import split_attention


def description_file(folder: Path) -> Path:
    """The file of an encoder's directory that describes the encoder."""
    if open_clip.is_open_clip(folder):
        return folder / open_clip.CONFIG
    return big_vision_file(folder) if is_big_vision(folder) else folder / DESCRIPTION


def read_description(folder: Path) -> dict[str, Any]:
    """What that file says, with the fields of the transformers library's config.json.

    Raises:
        UserError: the file is missing, or the model has a part that the encoders here have not.
    """
    if open_clip.is_open_clip(folder):
        return open_clip.open_clip_description(folder)
    return big_vision_description(folder) if is_big_vision(folder) else read_table(description_file(folder))


def read_encoder_weights(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of an encoder's directory by the names that the transformers library gives them.

    An array that is not known here keeps its name, which no encoder has, so that the array is refused.

    Raises:
        UserError: there are none, they cannot be read, or one has two values.
    """
    if open_clip.is_open_clip(folder):
        return open_clip.open_clip_arrays(folder)
    return big_vision_arrays(folder) if is_big_vision(folder) else split_attention(read_weights(folder))
