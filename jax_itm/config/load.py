"""The configuration of a run: its defaults, reading a file, checking, durations.

A file in `configs/` starts from `default(method)` and changes fields. A *duration* is a string:
"1000 steps", "30 epochs" (an epoch is as many examples as the split has captions) or "1e6 examples".
"""

import ast
import contextlib
import difflib
import json
import runpy
import sys
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_itm.config.fields import CHOICES, RUN
from jax_itm.durations import steps_of
from jax_itm.errors import UserError
from jax_itm.types import Config


def default(method: str) -> Config:
    """The defaults of a run of `method`; unknown fields are errors from here on."""
    from jax_itm.methods import DEFAULTS

    if method not in DEFAULTS:
        raise UserError(f"config: no method {method!r}{_nearest(method, list(DEFAULTS))}")
    return ConfigDict({**RUN, "method": {"name": method, **DEFAULTS[method]()}}).lock()


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


class Row(NamedTuple):
    """A field as `python -m jax_itm config` prints it."""

    name: str
    value: Any
    source: str  # default, file or override
    help: str


def explain(path: str, overrides: list[str]) -> list[Row]:
    """Every field of the run that `FILE[:ARG]` and the overrides describe, and where its value came from."""
    file = flatten(call(path, "get_config", "--config "))
    values = flatten(read(path, overrides))
    plain = flatten(default(file["method.name"]))
    changed = {override.removeprefix("--config.").partition("=")[0] for override in overrides}

    def source(name: str) -> str:
        if name in changed:
            return "override"
        return "default" if name in plain and file[name] == plain[name] else "file"

    return [Row(name, value, source(name), "") for name, value in values.items()]


def check(config: Config) -> None:
    """Raises UserError for a value that no run could use."""
    from jax_itm.data.augment import check_augment
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
    check_augment(config)
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


def to_json(config: Config) -> str:
    """The config as JSON; tuples become lists and come back as tuples."""
    return json.dumps(config.to_dict(), indent=2)


# What may change when a run resumes: where files are and how results are computed, never what is computed.
MAY_CHANGE_ON_RESUME = {
    "data.data_dir",
    "data.max_pixels",  # checked when the data set was prepared
    "data.source",
    "data.workers",
    "image.path",  # a pretrained encoder is read when a run starts, and is the run's own from then on
    "text.path",
    "evaluate.batch_size",
    "log_every",
    "fsdp",
    "remat",
    "patience",
    "similarity.form",
    "similarity.tile",
}
# What may differ between hosts: where their files are, and how many processes read them.
MAY_DIFFER_BETWEEN_HOSTS = {"data.data_dir", "data.source", "data.workers", "image.path", "text.path"}


def resumable_fields(config: Config) -> set[str]:
    """The fields that may change when a run resumes."""
    del config
    return MAY_CHANGE_ON_RESUME


def host_fields(config: Config) -> set[str]:
    """The fields that may differ between the hosts of a run."""
    del config
    return MAY_DIFFER_BETWEEN_HOSTS


def from_json(text: str) -> Config:
    """The config of a saved run (`from_dict`)."""
    return from_dict(json.loads(text))


def from_dict(saved: dict[str, Any]) -> Config:
    """The config of a saved run; fields that it is too old to have get their defaults.

    So a new field's default is what runs did before there was one.
    """

    def tuples(value):
        if isinstance(value, list):
            return tuple(tuples(item) for item in value)
        return {k: tuples(v) for k, v in value.items()} if isinstance(value, dict) else value

    def over(defaults, saved):
        if not (isinstance(defaults, dict) and isinstance(saved, dict)):
            return saved
        return defaults | {name: over(defaults.get(name), value) for name, value in saved.items()}

    config: Any = tuples(saved)
    return ConfigDict(over(default(config["method"]["name"]).to_dict(), config)).lock()
