"""Checkpoints: the only room that imports Orbax.

A checkpoint is a set of named items: `params`, `opt_state` (not of converted weights), `ema` (where
kept), `data` (the step: the data's whole state), `config` and `tokenizer` (JSON). They are written
asynchronously; the newest is kept, and the best by validation rSum. Reading elsewhere takes `config` and
`tokenizer` first and then `params` (or `ema`) alone, onto whatever devices there are.
"""

from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jax_itm.places import place
from jax_itm.step import State
from jax_itm.types import Params, PyTree, UserError

METRIC = "rsum"


def _rsum(metrics: dict[str, float]) -> float:
    return metrics[METRIC]


def found(workdir: str) -> bool:
    """Whether a run has saved anything."""
    path = place(workdir) / "checkpoints"
    return path.exists() and any(step.name.isdigit() for step in path.iterdir())


class Checkpoints:
    """The checkpoints of one work directory; read-only unless `create`."""

    def __init__(self, workdir: str, create: bool = False):
        path = place(workdir).absolute()
        if not create and not found(workdir):
            raise UserError(f"{workdir}: no checkpoint there; train one first")
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(1),
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
        )
        self.workdir = workdir
        self.manager = ocp.CheckpointManager(
            path / "checkpoints",
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

    def save(self, state: State, config: dict, tokenizer: dict, metrics: dict[str, float] | None) -> None:
        """Writes the state after `state.step` updates, in the background; without `opt_state` where None."""
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
        self.manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)

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
        return self._read(step, **{item: ocp.args.StandardRestore(like)})[item]  # type: ignore[call-arg]

    def close(self) -> None:
        """Waits for what is being written."""
        self.manager.wait_until_finished()
        self.manager.close()


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
