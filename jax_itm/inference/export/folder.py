"""The folder of an exported run: programs, weights, tokenizer, constants, and how to use them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from jax_itm.data.image_transforms import image_transform_of
from jax_itm.errors import UserError
from jax_itm.inference.export.programs import PLATFORMS, programs
from jax_itm.inference.matcher import Matcher
from jax_itm.version import __version__

FILES = Path(__file__).parent / "files"
COPIED = ("exported.py", "use.py")


def check_new(out: str) -> Path:
    """The folder that an export will make; UserError if it exists or could not be made."""
    folder = Path(out)
    if folder.exists():
        raise UserError(f"--out {out}: exists already; name a new folder")
    if not folder.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {folder.absolute().parent}")
    return folder


def write_stablehlo(matcher: Matcher, folder: Path) -> None:
    """Writes a run's programs and what they need into a folder that exists.

    Weights are a file of their own, an argument of the programs: they are stored once for all of them, may
    exceed the 2 GiB of a serialised program, and can be read, or exchanged, without it.
    """
    made = programs(matcher)
    for name, exported in made.exported.items():
        (folder / f"{name}.stablehlo").write_bytes(exported.serialize())
    save_file({name: np.asarray(x) for name, x in made.weights.items()}, folder / "weights.safetensors")
    (folder / "tokenizer.json").write_text(matcher.tokenizer.to_json(), encoding="utf-8")
    about = describe(matcher, list(made.exported))
    (folder / "export.json").write_text(json.dumps(about, indent=2) + "\n")
    for name in COPIED:
        shutil.copyfile(FILES / name, folder / name)


def describe(matcher: Matcher, names: Sequence[str]) -> dict[str, Any]:
    """What export.json says: where the programs come from, their sizes, the preprocessing's constants."""
    config = matcher.config
    [[start, end]], _ = matcher.tokenizer.encode([""], 2)  # an empty caption
    about = {
        "jax_itm": __version__,
        "jax": jax.__version__,
        "platforms": PLATFORMS,
        "run": config.name,
        "method": matcher.method.label,
        "score": matcher.method.score_name,
        "step": matcher.step,
        "programs": list(names),
        "batch_size": matcher.batch_size,
        "modality": config.data.modality,
        "max_words": config.data.max_words,
        "start_id": int(start),
        "end_id": int(end),
    }
    if config.data.modality == "pixels":
        transform = image_transform_of(config, matcher.facts)._asdict()
        del transform["max_pixels"]
        return about | transform
    return about | {
        "max_regions": config.data.max_regions,
        "region_dim": matcher.facts.region_dim,
        "needs_boxes": config.image.boxes,
    }
