"""Named architectures, for training from random values: `config.image.arch`.

Each is what a config.json of the transformers library would say; fields that are not named have the defaults
of their family there (`image_families.py`, `text_families.py`).
"""

from typing import Any

from ml_collections import ConfigDict

from jax_itm.errors import UserError
from jax_itm.pretrained.hf import read_architecture
from jax_itm.pretrained.hf_families import FAMILIES
from jax_itm.pretrained.preprocessor import default_preprocessor
from jax_itm.types import Architecture, Config

IMAGE_SIZE = 224  # of all, unless `config.image.size` says another


def _sizes(width: int, layers: int, heads: int, mlp: int = 0) -> dict[str, int]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": mlp or 4 * width,
    }


SMALL = _sizes(384, 12, 6)
BASE = _sizes(768, 12, 12)
LARGE = _sizes(1024, 24, 16)
HUGE = _sizes(1280, 32, 16)
SO400M = _sizes(1152, 27, 16, 4304)  # "shape-optimised", SigLIP's

VITS = {
    "vit-s-16": SMALL | {"patch_size": 16},
    "vit-b-32": BASE | {"patch_size": 32},
    "vit-b-16": BASE | {"patch_size": 16},
    "vit-l-16": LARGE | {"patch_size": 16},
    "vit-l-14": LARGE | {"patch_size": 14},
    "vit-h-14": HUGE | {"patch_size": 14},
    "vit-so400m-14": SO400M | {"patch_size": 14},
}
ARCHITECTURES: dict[str, dict[str, tuple[str, dict[str, int]]]] = {  # side -> name -> (model_type, fields)
    "image": {
        f"{prefix}{name}": (kind, fields)
        for prefix, kind in (("", "vit"), ("clip-", "clip"), ("siglip-", "siglip"))
        for name, fields in VITS.items()
    },
    "text": {
        "bert-mini": ("bert", _sizes(256, 4, 4)),
        "bert-small": ("bert", _sizes(512, 4, 8)),
        "bert-base": ("bert", BASE),
        "bert-large": ("bert", LARGE),
        "clip-base": ("clip", _sizes(512, 12, 8)),
        "clip-large": ("clip", BASE),
        "siglip-base": ("siglip", BASE),
        "siglip-large": ("siglip", LARGE),
        "siglip-so400m": ("siglip", SO400M),
    },
}


def named_architecture(config: Config, side: str) -> Architecture:
    """The architecture that `config.image.arch` or `config.text.arch` names.

    Pictures have `config.image.size`, texts `config.data.max_words` positions; the vocabulary is that of the
    tokenizer, which is fitted on the training captions (`with_vocabulary`).

    Raises:
        UserError: there is no such architecture; those that there are are named.
    """
    name = config[side].arch
    if name not in ARCHITECTURES[side]:
        known = ", ".join(ARCHITECTURES[side])
        raise UserError(f"config.{side}.arch={name!r}: no such architecture; there are {known}")
    kind, fields = ARCHITECTURES[side][name]
    size = config.image.size or IMAGE_SIZE
    own = {"image_size": size} if side == "image" else {"max_position_embeddings": config.data.max_words}
    section = FAMILIES[side][kind].section
    described: dict[str, Any] = fields | own
    description = {"model_type": kind, **({section: described} if section else described)}
    arch = read_architecture(side, description, f"config.{side}.arch={name}")
    if side == "image":
        if size % arch["patch"]:
            raise UserError(f"config.image.size={size}: is not whole patches of {arch['patch']} ({name})")
        arch |= default_preprocessor(kind, size)
    return ConfigDict(arch).lock()


def with_vocabulary(arch: Architecture, vocab: int) -> Architecture:
    """A text encoder's architecture with a table of `vocab` words."""
    return ConfigDict(arch.to_dict() | {"vocab": vocab}).lock()
