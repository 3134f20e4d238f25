"""Checkpoints: the only room that imports Orbax.

A checkpoint is a set of named items: `params`, `opt_state` (not of converted weights), `ema` (where
kept), `data` (the step: the data's whole state), `config` and `tokenizer` (JSON). They are written
asynchronously, with digests of their files; the newest two are kept, as one may get damaged, and the best by
validation rSum. Reading elsewhere takes `config` and `tokenizer` first and then `params` (or `ema`) alone,
onto whatever devices there are.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from jax_itm.checkpoint import checksums
from jax_itm.checkpoint.state import State
from jax_itm.errors import UserError
from jax_itm.storage import place
from jax_itm.types import Params, PyTree

METRIC = "rsum"

# By default every replica writes its slice of every array, and a program is compiled for each slice, which
# takes far longer than it saves where arrays are small.
_level = logging.get_verbosity()
logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant here
ocp.type_handlers.register_type_handler(
    jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=2**22), override=True
)
logging.set_verbosity(_level)


def _rsum(metrics: dict[str, float]) -> float:
    return metrics[METRIC]


def found(workdir: str) -> bool:
    """Whether a run has saved anything."""
    path = place(workdir) / "checkpoints"
    return path.exists() and bool(ocp.utils.checkpoint_steps(path))


class Checkpoints:
    """The checkpoints of one work directory; read-only unless `create`."""

    def __init__(self, workdir: str, create: bool = False):
        path = place(workdir).absolute()
        if not create and not found(workdir):
            raise UserError(f"{workdir}: no checkpoint there; train one first")
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(2),
                policies.BestN(get_metric_fn=_rsum, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_rsum,
            best_mode="max",
            preservation_policy=keep,
            create=create,
            read_only=not create,
            save_interval_steps=1 if create else 0,  # what read_only sets, with a warning
            cleanup_tmp_directories=create,  # what a process that was killed left half-written
            async_options=ocp.AsyncOptions(post_finalization_callback=self._written),
        )
        self.workdir, self.folder, self._writing = workdir, path / "checkpoints", 0
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=options,
            item_handlers={
                "params": ocp.StandardCheckpointHandler(),
                "opt_state": ocp.StandardCheckpointHandler(),
                "ema": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
                "tokenizer": ocp.JsonCheckpointHandler(),
            },
        )

    @property
    def last(self) -> int:
        """The newest step that was saved; 0 before the first."""
        return self.manager.latest_step() or 0

    @property
    def best(self) -> int:
        """The step with the best validation rSum; the newest where none was evaluated."""
        return self.manager.best_step() or self.last

    def newest_whole(self) -> tuple[int, str]:
        """The newest step whose files are what was written, and a line on those that are not.

        Raises:
            UserError: there is none.
        """
        lines = []
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                checksums.check(self.folder / str(step))
            except UserError as error:
                lines.append(str(error))
                continue
            return step, "; ".join([*lines, f"going on from step {step}"]) if lines else ""
        raise UserError(f"{self.workdir}: no checkpoint is whole: {'; '.join(lines)}")

    def drop_after(self, step: int) -> None:
        """Deletes damaged checkpoints after `step`, whose steps are about to be taken again."""
        for later in [each for each in self.manager.all_steps() if each > step]:
            self.manager.delete(later)

    def _written(self) -> None:
        """Called on one process when all files of a checkpoint are there, before it gets its name."""
        final = self.folder / str(self._writing)  # where Orbax writes in place, as in a bucket
        for folder in [final] if final.exists() else self.folder.glob(f"{self._writing}.*"):
            checksums.write(folder)

    def save(self, state: State, config: dict, tokenizer: dict, metrics: dict[str, float] | None) -> None:
        """Writes the state after `state.step` updates, in the background; without `opt_state` where None.

        Raises:
            UserError: this one or the one before could not be written.
        """
        step = int(state.step)
        items: dict[str, Any] = {
            "params": ocp.args.StandardSave(state.params),  # type: ignore[call-arg]
            "data": ocp.args.JsonSave({"step": step}),  # type: ignore[call-arg]
            "config": ocp.args.JsonSave(config),  # type: ignore[call-arg]
            "tokenizer": ocp.args.JsonSave(tokenizer),  # type: ignore[call-arg]
        }
        for name, tree in (("opt_state", state.opt_state), ("ema", state.ema)):
            if tree is not None:
                items[name] = ocp.args.StandardSave(tree)  # type: ignore[call-arg]
        with self._errors():
            self.manager.wait_until_finished()
            self._writing = step
            self.manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Makes one line of what goes wrong in writing, such as a full disk."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            last = max(ocp.utils.checkpoint_steps(self.folder), default=0)
            kept = f"checkpoint {last} is kept" if last else "there is none before"
            raise UserError(
                f"{self.workdir}: checkpoint {self._writing} could not be written, {kept}: {reason}"
            ) from error

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self.manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, FileNotFoundError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{self.workdir}: checkpoint {step} does not fit its config or is damaged: {reason}"
            ) from error

    def description(self, step: int) -> tuple[dict, dict]:
        """The config and the tokenizer that were saved with `step`."""
        checksums.check(self.folder / str(step), "config", "tokenizer")
        read = self._read(step, config=ocp.args.JsonRestore(), tokenizer=ocp.args.JsonRestore())
        return read["config"], read["tokenizer"]

    def state(self, step: int, like: State) -> State:
        """The whole state at `step`, on the devices and with the shardings of `like`."""
        if self.manager.item_metadata(step).get("opt_state") is None:
            raise UserError(
                f"{self.workdir}: holds converted weights and no optimiser's state to go on with; train in"
                " another --workdir, from these by config.start"
            )
        params, opt_state, ema = jax.tree.map(_abstract, (like.params, like.opt_state, like.ema))
        items = {
            "params": ocp.args.StandardRestore(params),  # type: ignore[call-arg]
            "opt_state": ocp.args.StandardRestore(opt_state),  # type: ignore[call-arg]
            "data": ocp.args.JsonRestore(),
        }
        if like.ema is not None:
            items["ema"] = ocp.args.StandardRestore(ema)  # type: ignore[call-arg]
        read = self._read(step, **items)
        count = jax.device_put(jax.numpy.int32(read["data"]["step"]), like.step.sharding)
        return State(count, read["params"], read["opt_state"], read.get("ema"))

    def params(self, step: int, like: PyTree, averaged: bool) -> Params:
        """The parameters at `step` (or their average), with the shardings of abstract `like`."""
        item = "ema" if averaged else "params"
        checksums.check(self.folder / str(step), item)
        return self._read(step, **{item: ocp.args.StandardRestore(like)})[item]  # type: ignore[call-arg]

    def close(self) -> None:
        """Waits for what is being written.

        Raises:
            UserError: it could not be.
        """
        with self._errors():
            self.manager.wait_until_finished()
        self.manager.close()


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
