"""Reading the files that a finished run left in its directory."""

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from etils import epath

from jax_itm.errors import UserError
from jax_itm.plots.tables import table
from jax_itm.storage import as_path


class Run(NamedTuple):
    """What a run left.

    Attributes:
        workdir: its directory.
        config: without what each seed has of its own: the seed, and the run that it started from.
        lines: of metrics.jsonl.
        result: of result.json, and its `minutes` of training.
    """

    workdir: epath.Path
    config: dict[str, Any]
    lines: list[dict[str, Any]]
    result: dict[str, Any]


def read_run(workdir: str) -> Run:
    """Reads `config.json`, `metrics.jsonl` and `result.json`, or the only `result-*.json`.

    Raises:
        UserError: a file is missing, or is not what `train` or `evaluate` wrote.
    """
    path = as_path(workdir)
    evaluate = f"python -m jax_itm evaluate --workdir {path} --out {path / 'result.json'}"
    config = _read(path / "config.json", _parse_config, "train the run first")
    lines = _read(path / "metrics.jsonl", _parse_lines, "train the run first")
    result = _read(_result_file(path), _parse_result, evaluate)
    return Run(path, config, lines, result | {"minutes": training_minutes(lines)})


def _result_file(workdir: epath.Path) -> epath.Path:
    """result.json, or the one that `evaluate` has written under the name of its split."""
    file = workdir / "result.json"
    others = [] if file.exists() or not workdir.exists() else list(workdir.glob("result-*.json"))
    return others[0] if len(others) == 1 else file


def training_minutes(lines: Iterable[dict[str, Any]]) -> float:
    """The minutes of the training steps, without validations, from the lines of `metrics.jsonl`."""
    seconds = 0.0
    previous = 0
    for line in lines:
        if step_seconds := line.get("train/step_seconds"):
            seconds += step_seconds * (line["step"] - previous)
            previous = line["step"]
    return seconds / 60


def _read(path: epath.Path, parse: Callable[[str], Any], advice: str) -> Any:
    try:
        return parse(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {advice}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # ValueError: JSON and UTF-8 too
        raise UserError(f"{path}: not what jax_itm writes ({error!r}); {advice}") from error


def _parse_config(text: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(text).items() if name not in ("seed", "start")}


def _parse_lines(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [dict(line) | {"step": int(line["step"])} for line in lines]


def _parse_result(text: str) -> dict[str, Any]:
    result = json.loads(text)
    table([result])  # fails if a number is missing
    return result
