"""A run's scalars at Weights & Biases, where `config.log.wandb` names a project (the extra `wandb`)."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_itm.config import flatten
from jax_itm.errors import UserError
from jax_itm.types import Config

ID_FILE = "wandb_id"  # in the run's directory: a resumed run appends to the same record


class WandbLog:
    """The record of one run.

    With `config.log.wandb_mode="offline"` it is written below the run's directory alone, and `wandb sync`
    sends it later.

    Args:
        config: of the run, which is recorded with it.
        folder: the run's directory, or where its files are kept until they are copied to a bucket.

    Raises:
        UserError: the package is missing, or Weights & Biases refuses the run.
    """

    def __init__(self, config: Config, folder: Path):
        try:
            import wandb
        except ImportError as error:
            raise UserError("config.log.wandb: needs the package wandb (pip install -e .[wandb])") from error
        try:
            self._run = wandb.init(
                project=config.log.wandb,
                name=config.name or None,
                id=_run_id(folder),
                resume="allow",
                dir=str(folder),
                mode=config.log.wandb_mode,
                config={name: _plain(value) for name, value in flatten(config).items()},
                settings=wandb.Settings(silent=True, disable_git=True, console="off"),
            )
        except Exception as error:  # the library's own, of the network, of a missing login
            raise UserError(
                f"config.log.wandb={config.log.wandb}: {' '.join(str(error).split())[:200]}; log in by"
                " 'wandb login', or set config.log.wandb_mode='offline'"
            ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records the scalars of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Ends the record."""
        self._run.finish()


def open_wandb(config: Config | None, folder: Path) -> WandbLog | None:
    """The record of a run at Weights & Biases; None if its config asks for none."""
    return WandbLog(config, folder) if config is not None and config.log.wandb else None


def _run_id(folder: Path) -> str:
    file = folder / ID_FILE
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:8])
    return file.read_text().strip()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
