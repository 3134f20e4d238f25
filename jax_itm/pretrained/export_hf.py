"""Exports a run's encoders for the transformers library, with the tables of families in reverse.

Two encoders of one CLIP or SigLIP, with their own summaries, are written as that model, with the scale of its
scores. Of other runs each side's backbone is written by itself, in `OUT/image` and `OUT/text`; what stands on
it (projection, pooling, head) has no counterpart there, and the notes say so.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from jax_itm.config.facts import Facts
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.pretrained.hf import encoder_family
from jax_itm.pretrained.hf_export_files import describe_family, describe_preprocessor, pad_id, tokenizer_files
from jax_itm.pretrained.hf_families import FAMILIES
from jax_itm.pretrained.mapper import join_attention, to_published
from jax_itm.types import SIDES, Config, Params

SECTIONS = {"image": "vision_config", "text": "text_config"}
# A pair's loss term -> its numbers: the published name, our parameter, the published shape.
SCORES = {
    "clip": ("info_nce", {"logit_scale": ("log_scale", ())}),
    "siglip": ("sigmoid", {"logit_scale": ("log_scale", (1,)), "logit_bias": ("bias", (1,))}),
}
UNTRAINED = {"log_scale": math.log(1 / 0.07), "bias": 0.0}  # where a run learnt none, as CLIP starts
CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}


class TrainedRun(NamedTuple):
    """What is exported.

    Attributes:
        config: of the run.
        facts: of the run.
        params: its parameters, LoRA's adapters merged.
        tokenizer: of the run.
    """

    config: Config
    facts: Facts
    params: Params
    tokenizer: Tokenizer


def export_huggingface(run: TrainedRun, out: str) -> list[str]:
    """Writes a run's encoders as directories of the transformers library; all or nothing.

    Args:
        run: what is exported.
        out: the directory; it must not exist, or be empty.

    Returns:
        What was written and what has no counterpart there, in lines.

    Raises:
        UserError: neither encoder has a counterpart, or the directory is not empty.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{out}: is not an empty directory; name a new one")
    sides = [side for side in SIDES if run.config[side].name == "pretrained"]
    if not sides:
        names = ", ".join(f"config.{side}.name={run.config[side].name!r}" for side in SIDES)
        raise UserError(f"{names}: the transformers library has no such encoders; pretrained ones it has")
    if kind := _pair_kind(run):
        _write_pair(run, kind, folder)
        return [f"{out}: a {kind} for transformers.{CLASSES[kind]}", *_pair_notes(run, kind)]
    notes = []
    for side in SIDES:
        if side in sides:
            _write_backbone(run, side, folder / side)
            arch = run.facts.architecture(side)
            notes.append(f"{folder / side}: the backbone, a {arch.kind}, for transformers.AutoModel")
            notes += _size_note(run) if side == "image" else []
            options = run.config[side]
            notes.append(f"{side}: not written: its projection and pooling ({options.pooling})")
        else:
            notes.append(f"{side}: not written: {run.config[side].name!r} has no counterpart there")
    return notes + _head_note(run)


def _pair_kind(run: TrainedRun) -> str:
    """ "clip" or "siglip" if a run's embeddings are those of such a model; otherwise ""."""
    poolings = {run.config[side].pooling for side in SIDES}
    kinds = {run.facts.architecture(side).kind for side in SIDES if run.config[side].name == "pretrained"}
    plain = not any(run.config[side].hidden for side in SIDES) and run.config.head.name == "none"
    both = all(run.config[side].name == "pretrained" for side in SIDES)
    [pooling] = poolings if len(poolings) == 1 else [""]
    return pooling if both and plain and kinds == {pooling} and pooling in SCORES else ""


def _published(run: TrainedRun, side: str, pooling: str) -> dict[str, np.ndarray]:
    """The weights of one side by their published names, with the family's prefix."""
    arch = run.facts.architecture(side)
    family = encoder_family(side, arch, pooling, "the run")
    flat: Any = flatten_dict(run.params[side], sep="/")
    names = family.names(arch)
    arrays = {name: to_published(name, path, np.asarray(flat[path])) for name, path in names.items()}
    without = {"text_projection.weight", "visual_projection.weight"}  # CLIP's stand beside its encoders
    prefix = family.prefix if family.section else ""
    return join_attention({name if name in without else prefix + name: x for name, x in arrays.items()})


def _write_pair(run: TrainedRun, kind: str, folder: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    description: dict[str, Any] = {"model_type": kind, "architectures": [CLASSES[kind]]}
    for side in SIDES:
        arrays |= _published(run, side, kind)
        arch = run.facts.architecture(side)
        description[SECTIONS[side]] = describe_family(FAMILIES[side][kind], arch) | _ids(run, side)
    if kind == "clip":
        description["projection_dim"] = run.config.dim
    description["text_config"]["projection_size" if kind == "siglip" else "projection_dim"] = run.config.dim
    description["vision_config"] |= {"projection_dim": run.config.dim} if kind == "clip" else {}
    term, numbers = SCORES[kind]
    learnt = run.params["loss"].get(term, {})
    for name, (parameter, shape) in numbers.items():
        value = np.asarray(learnt.get(parameter, UNTRAINED[parameter]), np.float32)
        arrays[name] = value.reshape(shape)
    files = describe_preprocessor(run.facts.image_architecture) | tokenizer_files(
        run.tokenizer, run.config.data.max_words
    )
    _write(folder, description, arrays, files)


def _write_backbone(run: TrainedRun, side: str, folder: Path) -> None:
    arch = run.facts.architecture(side)
    family = FAMILIES[side][arch.kind]
    # A part of a pair has a model_type of its own.
    kind = (
        arch.kind + {"image": "_vision_model", "text": "_text_model"}[side] if family.section else arch.kind
    )
    kind = arch.kind if arch.kind.endswith("_model") else kind
    arrays = {name.removeprefix("backbone/"): x for name, x in _published(run, side, "none").items()}
    description = {"model_type": kind, **describe_family(family, arch), **_ids(run, side)}
    if side == "image":
        files = describe_preprocessor(arch)
    else:
        files = tokenizer_files(run.tokenizer, run.config.data.max_words)
    if kind == "siglip_vision_model":
        description["vision_use_head"] = False
    _write(folder, description, arrays, files)


def _ids(run: TrainedRun, side: str) -> dict[str, int]:
    """The ids by which CLIP finds its summary."""
    if side == "image":
        return {}
    start, end, _ = run.tokenizer.marks
    ids = {"eos_token_id": end, "pad_token_id": pad_id(run.tokenizer)}
    return ids | ({"bos_token_id": start[0]} if start else {})


def _write(
    folder: Path, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], files: Mapping[str, str]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    save_file(
        {
            name: np.array(x, order="C") for name, x in arrays.items()
        },  # ascontiguousarray adds an axis to none
        folder / "model.safetensors",
        {"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps(description, indent=2))  # the last: it makes a directory


def _pair_notes(run: TrainedRun, kind: str) -> list[str]:
    term, _ = SCORES[kind]
    learnt = run.params["loss"].get(term, {})
    notes = (
        [] if "log_scale" in learnt else ["logit_scale: this run learnt none; it is written as CLIP's start"]
    )
    return notes + _size_note(run)


def _size_note(run: TrainedRun) -> list[str]:
    arch = run.facts.image_architecture
    side = arch.image_transform["crop"] or arch.image_transform["resize"]
    if "image_size" not in arch or set(side) == {arch.image_size}:
        return []
    return [
        f"image: pictures of {side[-1]} pixels, positions of {arch.image_size}: interpolate_pos_encoding=True"
    ]


def _head_note(run: TrainedRun) -> list[str]:
    head = run.config.head.name
    return [] if head == "none" else [f"not written: the head {head!r} has no counterpart there"]
