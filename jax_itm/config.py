"""The configuration of a run: every field with its default, reading a file, checking, durations.

A file in `configs/` starts from `default(method)` and changes fields. A *duration* is a string:
"1000 steps", "30 epochs" (an epoch is as many examples as the split has captions) or "1e6 examples".
"""

import ast
import contextlib
import difflib
import json
import math
import re
import runpy
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jax_itm.types import Config, UserError

CHOICES = {
    "image.name": ("regions", "vit", "pretrained"),
    "image.pooling": ("gpo", "mean", "max", "cls", "clip"),
    "text.name": ("bigru", "bert", "bow", "pretrained"),
    "text.pooling": ("gpo", "mean", "max", "cls", "clip"),
    "data.view": ("regions", "pixels"),
    "data.tokenizer": ("words", "wordpiece"),
    "optimizer.name": ("adamw", "bert_adam"),
    "optimizer.schedule": ("constant", "cosine", "linear", "step"),
    "dtype": ("float32", "bfloat16"),
    "similarity.form": ("auto", "ring", "gather"),
    "similarity.dtype": ("float32", "bfloat16"),
    "evaluate.protocol": ("full", "folds"),
    "method.negatives": ("distance_weighted", "hardest", "sum"),
    "method.dim_form": ("ratio", "infonce", "barlow", "diagonal"),
    "method.dim_phi": ("relu", "abs", "square", "exp"),
    "method.dim_samples": ("global", "attended"),
    "method.dim_reduce": ("sum", "mean"),
    "method.select_on": ("proximity", "distance", "discrepancy_large", "none"),
    "method.mask": ("hard", "soft"),
    "method.alignment": ("singular", "distributed", "none"),
    "method.schedule": ("exp", "linear", "log"),
    "method.modal_form": ("one_minus", "literal"),
    "method.score": ("maxmean", "pooled", "mapped"),
    "sampling.schedule": ("each_batch", "random_features", "precomputed"),
    "sampling.threshold_on": ("p", "s"),
    "sampling.scope": ("pair", "batch"),
    "sampling.level": ("pooled_batch", "patch_batch", "patch_image"),
}


TOWER = {  # pretrained
    "path": "",  # a directory as Hugging Face's libraries save it, or a name on their hub
    "frozen": False,  # its parameters stay as they are
    "cached": False,  # of a frozen one: its tokens were made once, by `prepare --encode`
    "arch": {},  # what the tower is: read from its config.json when a run starts, kept with the run
}

IMAGE = {
    "name": "regions",
    "pooling": "gpo",
    "drop": 0.2,  # share of regions hidden in training
    "boxes": False,  # regions: append the location to the features
    "hidden": 0,  # regions: of the MLP; 0 is dim // 2
    "patch": 16,  # vit, from here on
    "width": 192,
    "layers": 6,
    "heads": 3,
    "size": 0,  # pretrained: height and width in pixels; 0: as its preprocessor says
    **TOWER,
}

TEXT = {
    "name": "bigru",
    "pooling": "gpo",
    "drop": 0.2,
    "word_dim": 300,  # bigru
    "width": 256,  # bert, from here on
    "layers": 4,
    "heads": 4,
    "dropout": 0.1,  # bert and pretrained
    **TOWER,
}

SIMILARITY = {  # how a loss walks the B x B scores; similarity.Plan
    "form": "auto",
    "tile": 0,  # the largest part, rows and columns; 0: by the kind of device
    "dtype": "float32",  # of the products; sums stay float32
}

SAMPLING = {  # CDDS's distribution sampling; any dual encoder's, with method.weights.sampling
    "schedule": "each_batch",  # | random_features | precomputed: from which tokens S is taken
    "threshold_on": "p",  # | s, as printed
    "alpha": 1.0,  # start of the learnable thresholds
    "identity": 0.5,  # share of the identity in S; 0: the paper
    "scope": "pair",  # | batch
    "level": "pooled_batch",  # | patch_image, literal | patch_batch
    "temperature": 0.07,
}

DATA = {
    "name": "scenes",
    "source": "",  # the raw files, for `prepare`
    "data_dir": "data",
    "train": "train",
    "validation": "val",
    "view": "regions",
    "max_words": 32,
    "max_regions": 36,
    "image_size": 96,
    "region_dim": 0,  # 0: as the data set says; kept with the run
    "tokenizer": "words",
    "min_count": 1,
    "vocab_size": 30000,
    "workers": 0,  # processes that read; 0 reads in threads
}

OPTIMIZER = {
    "name": "adamw",  # | bert_adam, as UNITER's
    "lr": 5e-4,
    "schedule": "step",
    "warmup": "0 steps",
    "floor": 0.0,  # the rate is never lower
    "step_at": ("15 epochs",),
    "step_factor": 0.1,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 1e-4,
    "decay_on": (r"(kernel|recurrent|embedding)$",),
    "lr_factors": (),  # (pattern, factor) pairs over parameter paths
    "freeze": (),  # patterns
    "clip": 2.0,  # of the global norm; 0 does not clip
}


def default(method: str) -> Config:
    """The defaults of a run of `method`; unknown fields are errors from here on."""
    from jax_itm.methods import DEFAULTS

    if method not in DEFAULTS:
        raise UserError(f"config: no method {method!r}{_nearest(method, list(DEFAULTS))}")
    return ConfigDict(
        {
            "name": "",
            "start": "",  # a run, or a BERT directory, whose parameters and tokenizer this one starts from
            "seed": 0,
            "batch_size": 128,  # global, over all devices
            "micro_batches": 1,  # exact accumulation: encode in so many parts, one loss on all
            "duration": "30 epochs",
            "dtype": "float32",  # of the encoders' compute; parameters and losses stay float32
            "dim": 1024,  # of the shared embedding
            "ema": 0.0,  # decay of averaged parameters; 0 keeps none
            "method": {"name": method, **DEFAULTS[method]()},
            "image": IMAGE,
            "text": TEXT,
            "data": DATA,
            "similarity": SIMILARITY,
            "sampling": SAMPLING,
            "optimizer": OPTIMIZER,
            "evaluate": {
                "every": "1 epochs",
                "batch_size": 250,
                "protocol": "full",
                "images": 0,  # validate on the first so many; 0: all. For cross-encoders
            },
            "log_every": 20,  # steps
        }
    ).lock()


def options(arg: str, **defaults: str) -> dict[str, str]:
    """Reads a config file's argument, "key=value,key=value", over the file's own defaults."""
    found = dict(defaults)
    for part in filter(None, arg.split(",")):
        name, _, value = part.partition("=")
        if name not in defaults:
            raise UserError(f"config argument {part!r}{_nearest(name, list(defaults))}")
        found[name] = value
    return found


def read(path: str, overrides: list[str]) -> Config:
    """Runs `get_config` of `FILE[:ARG]`, applies `--config.x=y` overrides, and checks all.

    Raises:
        UserError: a file, a field or a value is wrong; the nearest field is suggested.
    """
    config = call(path, "get_config", "--config ")
    for override in overrides:
        _override(config, *override.removeprefix("--config.").partition("=")[::2])
    check(config)
    return config


def call(path: str, name: str, option: str = "") -> Any:
    """What the function `name` of `FILE[:ARG]` returns, given ARG where there is one.

    Raises:
        UserError: no such file or function, or it fails; the line begins with `option` and the path.
    """
    file, _, arg = path.partition(":")
    if not Path(file).is_file():
        raise UserError(f"{option}{file}: no such file")
    sys.path.insert(0, str(Path(file).resolve().parents[1]))  # so that a config may import another
    try:
        function = runpy.run_path(file)[name]
        return function(arg) if arg else function()
    except (AttributeError, KeyError, TypeError, ImportError, SyntaxError) as error:
        raise UserError(f"{option}{path}: {' '.join(str(error).split())}") from error
    finally:
        sys.path.pop(0)


def _override(config: Config, name: str, text: str) -> None:
    fields = flatten(config)
    if name not in fields:
        raise UserError(f"config.{name}: no such field{_nearest(name, list(fields))}")
    old, new = fields[name], text
    if not isinstance(old, str):
        with contextlib.suppress(ValueError, SyntaxError):  # stays a string: the wrong type
            new = ast.literal_eval(text)
    if type(old) is bool and type(new) is not bool:
        raise UserError(f"config.{name}={text}: must be True or False")
    try:
        config.update_from_flattened_dict({name: new})
    except (TypeError, ValueError) as error:
        kind = type(old).__name__
        raise UserError(f"config.{name}={text}: must be of type {kind}, such as {old!r}") from error


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(names))}"


def flatten(config: Config) -> dict[str, Any]:
    """{"optimizer.lr": 5e-4, ..}: every field under its dotted name."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{key}.{name}": leaf for name, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def check(config: Config) -> None:
    """Raises UserError for a value that no run could use."""
    from jax_itm.models.towers import check_towers

    flat = flatten(config)
    for name, choices in CHOICES.items():
        if name in flat and flat[name] not in choices:
            raise UserError(f"config.{name}={flat[name]!r}: must be one of {', '.join(map(repr, choices))}")
    for name in ("batch_size", "micro_batches", "dim", "log_every", "evaluate.batch_size"):
        if flat[name] < 1:
            raise UserError(f"config.{name}={flat[name]}: must be at least 1")
    for name, zero in (("similarity.tile", "by device"), ("evaluate.images", "all")):
        if flat[name] < 0:
            raise UserError(f"config.{name}={flat[name]}: must be 0 ({zero}) or more")
    if config.batch_size % config.micro_batches:
        raise UserError(
            f"config.micro_batches={config.micro_batches}: does not divide"
            f" config.batch_size={config.batch_size}"
        )
    wanted = "regions" if config.image.name == "regions" else "pixels"
    if config.data.view != wanted:
        raise UserError(
            f"config.image.name={config.image.name!r} reads config.data.view={wanted!r},"
            f" not {config.data.view!r}"
        )
    check_towers(config)
    if config.method.get("learn_alpha") and config.method.mask != "soft":
        raise UserError("config.method.learn_alpha: needs config.method.mask='soft'")
    durations = ["duration", "evaluate.every", "optimizer.warmup", "method.sum_for", "method.draw_for"]
    for name in durations:
        if name in flat:
            steps = steps_of(flat[name], 1, 1, f"config.{name}")
            if not steps and name in ("duration", "evaluate.every"):
                raise UserError(f"config.{name}={flat[name]!r}: must be at least one step")
    for duration in config.optimizer.step_at:
        steps_of(duration, 1, 1, "config.optimizer.step_at")


def steps_of(duration: str, batch_size: int, epoch_examples: int, field: str = "config.duration") -> int:
    """Steps in a duration, rounded up; see the module's docstring for the form."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*(step|epoch|example)s?\s*", str(duration))
    if not match:
        raise UserError(f'{field}={duration!r}: write "1000 steps", "30 epochs" or "1e6 examples"')
    unit = {"step": batch_size, "epoch": epoch_examples, "example": 1}[match[2]]
    return math.ceil(round(float(match[1]) * unit / batch_size, 6))


def to_json(config: Config) -> str:
    """The config as JSON; tuples become lists and come back as tuples."""
    return json.dumps(config.to_dict(), indent=2)


def from_json(text: str) -> Config:
    """The config of a saved run."""

    def tuples(value):
        if isinstance(value, list):
            return tuple(tuples(item) for item in value)
        return {k: tuples(v) for k, v in value.items()} if isinstance(value, dict) else value

    fields: Any = tuples(json.loads(text))
    return ConfigDict(fields).lock()
