"""The small files of an exported directory: config.json's fields, the preprocessor's and the tokenizer's."""

import json
from typing import Any

import numpy as np

from jax_itm.data.tokenizer import Tokenizer
from jax_itm.pretrained.family import Family
from jax_itm.pretrained.hf import ACTIVATIONS
from jax_itm.types import Architecture

PADS = ("[PAD]", "<pad>", "</s>")


def describe_family(family: Family, arch: Architecture) -> dict[str, Any]:
    """An architecture as config.json says it: what `read_architecture` reads, backwards."""
    activations = {ours: published for published, ours in ACTIVATIONS.items()}
    described: dict[str, Any] = {}
    for ours, (published, _) in family.fields.items():
        value = arch[ours]
        if ours == "act":
            value = activations[value]
        if published == "mlp_ratio" and ours == "mlp":
            value = value / arch.width
        described[published] = list(value) if isinstance(value, tuple) else value
    return {**family.needs, **described}


def describe_preprocessor(arch: Architecture) -> dict[str, str]:
    """preprocessor_config.json of an image encoder."""
    transform = arch.image_transform
    resize = tuple(transform["resize"])
    crop = tuple(transform["crop"])
    kind = "CLIP" if crop or len(resize) == 1 else "ViT"
    fields: dict[str, Any] = {
        "image_processor_type": f"{kind}ImageProcessor",
        "do_resize": bool(resize),
        "resample": int(transform["resample"]),
        "do_center_crop": bool(crop),
        "do_rescale": True,
        "rescale_factor": float(arch.scale),
        "do_normalize": True,
        "image_mean": np.asarray(arch.mean).tolist(),
        "image_std": np.asarray(arch.std).tolist(),
    }
    if resize:
        names = ("shortest_edge",) if len(resize) == 1 else ("height", "width")
        fields["size"] = dict(zip(names, resize, strict=True))
    if crop:
        fields["crop_size"] = dict(zip(("height", "width"), crop, strict=True))
    return {"preprocessor_config.json": json.dumps(fields, indent=2)}


def tokenizer_files(tokenizer: Tokenizer, max_words: int) -> dict[str, str]:
    """tokenizer.json and tokenizer_config.json, which give the ids of `Tokenizer.encode`."""
    words = {number: word for word, number in tokenizer.vocabulary().items()}
    options: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_words,
        "padding_side": "right",
        "truncation_side": "right",
        "eos_token": words[tokenizer.marks.end],
        "pad_token": words[pad_id(tokenizer)],
    }
    said = json.dumps(options, indent=2)
    return {"tokenizer.json": tokenizer.to_published_json(), "tokenizer_config.json": said}


def pad_id(tokenizer: Tokenizer) -> int:
    """The id that pads a text: of CLIP, where any would do, the end's, as published."""
    _, end, pad = tokenizer.marks
    return pad if pad in [tokenizer.vocabulary().get(token) for token in PADS] else end
