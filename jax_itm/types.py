"""Shape letters, the batch, and the names of types that the whole package uses.

Letters used in every shape annotation:

    b  batch: images = captions in a training batch      i  images      t  texts (captions)
    r  regions or patches of one image                   w  words (sub-words) of one caption
    f  features of one region                            d  embedding   n  devices
    h  height and v  width of an image in pixels

A *batch* is a dict of arrays, the same on the host (numpy) and on the devices (sharded on axis 0):

    image     {"regions": (b, r, f) float, "boxes": (b, r, 4) float32, "mask": (b, r) bool}
              or {"pixels": (b, h, v, 3) uint8}
    text      {"ids": (b, w) int32, "mask": (b, w) bool}       row k is a caption of image row k
    image_id  (b,) int32     equal numbers mark captions of one image: never negatives of each other
    set_id    (b,) int32     of a mixture: the number of the set of each row (`config.data.mixture`)

Boxes are [x1, y1, x2, y2] in units of the image's width and height. Masks are True on what is real.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped, UInt

SIDES = ("image", "text")  # of a batch

Batch = dict[str, Any]
Inputs = Mapping[str, Any]  # batch["image"] or batch["text"]
Config = Any  # an ml_collections.ConfigDict, whose fields no type checker knows
Architecture = Any  # the same: `kind`, one of models.pretrained_encoder.BACKBONES, and that module's fields
Params = PyTree
Terms = dict[str, Array]


__all__ = [
    "Architecture",
    "Array",
    "Batch",
    "Bool",
    "Config",
    "Float",
    "Inputs",
    "Int",
    "PRNGKeyArray",
    "Params",
    "PyTree",
    "Shaped",
    "Terms",
    "UInt",
]
