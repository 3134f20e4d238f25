"""Creates, reads and writes the configuration of a run.

A file in `configs/` starts from `default(preset)` and changes fields; `--config.x=y` changes them on the
command line. What a value may be is checked field by field and then between fields (`rules.py`).

The modules of `config.imports` register loss terms, and so add fields. `read` therefore imports them before
it applies the other overrides: those of an override before it runs the file, those of the file after it.
"""

import ast
import contextlib
import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_itm.config.fields import COMMON, Field, Section, defaults, flat
from jax_itm.config.loss_fields import LOSSES, model_fields
from jax_itm.config.presets import PRESETS
from jax_itm.config.rules import check_fields, check_rules, nearest
from jax_itm.errors import UserError
from jax_itm.types import Config

PRESET = Field("", "what the run started from (config/presets.py); losses and head say what it is now")


def sections(preset: Any) -> Section:
    """The fields of a run that starts from `preset`."""
    if not isinstance(preset, str):
        raise UserError(f"config.preset={preset!r}: must be one of {', '.join(PRESETS)}")
    if preset not in PRESETS:
        raise UserError(f"config.preset: no preset {preset!r}{nearest(preset, list(PRESETS))}")
    return {"preset": PRESET._replace(default=preset), **COMMON, **model_fields(PRESETS[preset].model)}


def fields(config: Config) -> dict[str, Field]:
    """Every field of a config by its dotted name."""
    return dict(flat(sections(config.preset)))


def default(preset: str) -> Config:
    """The configuration of a preset; unknown fields are errors from here on.

    >>> default("sigmoid").losses.sigmoid.weight
    1.0
    """
    config = ConfigDict(defaults(sections(preset)))
    config.update_from_flattened_dict(dict(PRESETS[preset].fields))
    return config.lock()


def options(arg: str, **defaults: str) -> dict[str, str]:
    """Reads a config file's argument, "key=value,key=value", over the file's own defaults."""
    values = dict(defaults)
    for part in filter(None, arg.split(",")):
        name, _, value = part.partition("=")
        if name not in defaults:
            raise UserError(f"config argument {part!r}{nearest(name, list(defaults))}")
        values[name] = value
    return values


def read(path: str, overrides: list[str]) -> Config:
    """Runs `get_config` of `FILE[:ARG]`, applies `--config.x=y` overrides, and checks all.

    Raises:
        UserError: a file, a field or a value is wrong; the nearest field is suggested.
    """
    texts = _override_texts(overrides)
    return _with_overrides(_read_file(path, texts), texts)


def _override_texts(overrides: list[str]) -> list[tuple[str, str]]:
    """[("batch_size", "8"), ..] of ["--config.batch_size=8", ..]."""
    texts = []
    for override in overrides:
        name, equals, text = override.removeprefix("--config.").partition("=")
        if not equals:
            raise UserError(f"{override}: needs its value after =, as in --config.duration='2 epochs'")
        texts.append((name, text))
    return texts


def _read_file(path: str, overrides: list[tuple[str, str]]) -> Config:
    """What `get_config` returns, with the fields of all terms that `config.imports` registers."""
    for name, text in overrides:
        if name == "imports":
            import_modules(_parsed(text))
    config = call(path, "get_config", "--config ")
    import_modules(config.imports)
    _add_new_terms(config)
    return config


def _add_new_terms(config: Config) -> None:
    """Gives a dual encoder, which any registered term may join, the fields of terms it does not know yet."""
    if "head" in config and "losses" in config:
        with config.unlocked():
            for name, section in LOSSES.items():
                if name not in config.losses:
                    config.losses[name] = defaults(section)


def _with_overrides(config: Config, overrides: list[tuple[str, str]]) -> Config:
    for name, text in overrides:
        _override(config, name, text)
    check(config)
    return config


def call(path: str, name: str, option: str = "") -> Any:
    """What the function `name` of `FILE[:ARG]` returns, called with ARG where there is one.

    Raises:
        UserError: no such file or function, or it fails; the line begins with `option` and the path.
    """
    file, _, arg = path.partition(":")
    if not Path(file).is_file():
        raise UserError(f"{option}{file}: no such file")
    sys.path.insert(0, str(Path(file).resolve().parents[1]))  # so that a config may import another
    try:
        found = runpy.run_path(file)
        if name not in found:
            raise UserError(f"{option}{path}: has no function {name}")
        function = found[name]
        return function(arg) if arg else function()
    except (AttributeError, KeyError, TypeError, ImportError, SyntaxError) as error:
        raise UserError(f"{option}{path}: {' '.join(str(error).split())}") from error
    finally:
        sys.path.pop(0)


def import_modules(names: Any) -> None:
    """Imports the modules that register loss terms of one's own (`config.imports`)."""
    if not isinstance(names, tuple) or not all(map(_is_module, names)):
        raise UserError(f"config.imports={names!r}: must be a tuple of names of modules, as ('my_term',)")
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"config.imports: {name!r} cannot be imported ({error})") from error


def _is_module(name: Any) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def check(config: Config) -> None:
    """Raises UserError for a value that no run could use."""
    import_modules(config.imports)
    known = fields(config)
    check_fields(known, flatten(config))
    check_rules(config)


def _override(config: Config, name: str, text: str) -> None:
    values = flatten(config)
    if name not in values:
        raise UserError(f"config.{name}: no such field{nearest(name, list(values))}")
    old = values[name]
    new = text if isinstance(old, str) else _parsed(text)
    if type(old) is bool and type(new) is not bool:
        raise UserError(f"config.{name}={text}: must be True or False")
    if type(new) is bool and type(old) is not bool:  # ConfigDict would make 1.0 of it
        raise UserError(f"config.{name}={text}: must be of type {type(old).__name__}, such as {old!r}")
    try:
        config.update_from_flattened_dict({name: new})
    except (TypeError, ValueError, OverflowError) as error:
        kind = type(old).__name__
        raise UserError(f"config.{name}={text}: must be of type {kind}, such as {old!r}") from error


def _parsed(text: str) -> Any:
    """The Python literal that `text` is; otherwise `text` itself, which then is of the wrong type."""
    with contextlib.suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(text)
    return text


def flatten(config: Config) -> dict[str, Any]:
    """{"optimizer.lr": 5e-4, ..}: every field under its dotted name."""
    values = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            values |= {f"{key}.{name}": leaf for name, leaf in flatten(value).items()}
        else:
            values[key] = value
    return values


class Row(NamedTuple):
    """A field as `python -m jax_itm config` prints it."""

    name: str
    value: Any
    source: str  # default, preset, file or override
    help: str


def explain(path: str, overrides: list[str]) -> list[Row]:
    """Every field of the run that `FILE[:ARG]` and the overrides describe, and where its value came from."""
    texts = _override_texts(overrides)
    config = _read_file(path, texts)
    file = flatten(config)
    config = _with_overrides(config, texts)
    preset = PRESETS[config.preset].fields
    plain = flatten(default(config.preset))
    changed = {name for name, _ in texts}

    def source(name: str) -> str:
        if name in changed:
            return "override"
        if file[name] != plain[name]:
            return "file"
        return "preset" if name in preset else "default"

    values = flatten(config)
    return [Row(name, values[name], source(name), field.help) for name, field in fields(config).items()]


def resumable_fields(config: Config) -> set[str]:
    """The fields that may change when a run resumes."""
    return {name for name, field in fields(config).items() if field.resume}


def host_fields(config: Config) -> set[str]:
    """The fields that may differ between the hosts of a run."""
    return {name for name, field in fields(config).items() if field.per_host}


def to_json(config: Config) -> str:
    """The config as JSON; tuples become lists and come back as tuples."""
    return json.dumps(config.to_dict(), indent=2)


def from_json(text: str) -> Config:
    """The config of a saved run."""
    return from_dict(json.loads(text))


def from_dict(saved: dict[str, Any]) -> Config:
    """The config of a saved run, as `config.to_dict()` gave it or as JSON keeps it.

    Raises:
        UserError: it is not a config of this version.
    """
    config = ConfigDict(with_tuples(saved)).lock()
    if "preset" not in config:
        raise UserError("config: saved by another version of jax_itm: it has no field config.preset")
    import_modules(config.get("imports", ()))
    _add_new_terms(config)  # those that this process has registered since
    wanted = fields(config).keys()
    saved_fields = flatten(config).keys()
    if wanted != saved_fields:
        name = sorted(wanted ^ saved_fields)[0]
        state = "lacks" if name in wanted else "has"
        raise UserError(f"config: saved by another version of jax_itm: it {state} config.{name}")
    return config


def with_tuples(value: Any) -> Any:
    """A value as it was before JSON made lists of its tuples."""
    if isinstance(value, list | tuple):
        return tuple(with_tuples(item) for item in value)
    return {k: with_tuples(v) for k, v in value.items()} if isinstance(value, dict) else value
