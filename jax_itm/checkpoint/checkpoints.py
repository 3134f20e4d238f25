"""Writing, reading and choosing checkpoints.

A checkpoint is a set of named items: `params`, `opt_state` (absent from converted weights), `ema` (if the
run keeps averages), and as JSON `data` (the step, which is the whole state of the data), `config`, `facts`
and `tokenizer`. They are written asynchronously, with checksums of their files. The newest two are kept,
because one may get damaged, and the best by validation rSum. To restore a run elsewhere, the JSON items are
read first and then `params` (or `ema`) alone, onto whatever devices there are.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from jax_itm import config as config_lib
from jax_itm.checkpoint import checksums
from jax_itm.checkpoint.state import State
from jax_itm.config import Facts
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.storage import as_path
from jax_itm.types import Config, Params, PyTree

METRIC = "rsum"
JSON_ITEMS = ("data", "config", "facts", "tokenizer")


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Leaves out what Orbax warns of, wherever it is used: in a notebook nothing else does."""
    level = logging.get_verbosity()
    logging.set_verbosity(min(level, logging.ERROR))  # absl's levels fall as they become more serious
    try:
        yield
    finally:
        logging.set_verbosity(level)


# By default every replica writes its slice of every array, and a program is compiled for each slice, which
# takes far longer than it saves if arrays are small.
with _no_warnings():  # that its own handler is replaced, which is intended
    ocp.type_handlers.register_type_handler(
        jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=2**22), override=True
    )


class Intact(NamedTuple):
    """The newest checkpoint whose files are what was written.

    Attributes:
        step: of the checkpoint.
        warning: what is wrong with newer ones; "" if nothing is.
    """

    step: int
    warning: str


class Description(NamedTuple):
    """What is needed to build the model of a run.

    Attributes:
        config: of the run.
        facts: what it read of its data and its pretrained encoders.
        tokenizer: of its captions.
    """

    config: Config
    facts: Facts
    tokenizer: Tokenizer


def has_checkpoint(workdir: str) -> bool:
    """Whether a run has saved anything in `workdir`."""
    path = as_path(workdir) / "checkpoints"
    return path.exists() and bool(ocp.utils.checkpoint_steps(path))


class Checkpoints:
    """The checkpoints of one work directory; read-only unless `create`."""

    def __init__(self, workdir: str, create: bool = False):
        if not create and not has_checkpoint(workdir):
            raise UserError(f"{workdir}: no checkpoint there; train a run first")
        self.workdir = workdir
        self.folder = as_path(workdir).absolute() / "checkpoints"
        self._writing = 0  # the step that is being written
        items: dict[str, ocp.CheckpointHandler] = {name: ocp.JsonCheckpointHandler() for name in JSON_ITEMS}
        items |= {name: ocp.StandardCheckpointHandler() for name in ("params", "opt_state", "ema")}
        with _no_warnings():  # that a folder that is only read is read only
            self.manager = ocp.CheckpointManager(
                self.folder, options=self._options(create), item_handlers=items
            )

    def _options(self, create: bool) -> ocp.CheckpointManagerOptions:
        rsum = lambda metrics: metrics[METRIC]
        kept = policies.AnyPreservationPolicy(
            [
                policies.LatestN(2),
                policies.BestN(get_metric_fn=rsum, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        return ocp.CheckpointManagerOptions(
            best_fn=rsum,
            best_mode="max",
            preservation_policy=kept,
            create=create,
            read_only=not create,
            save_interval_steps=1 if create else 0,  # read_only sets 0 itself, but with a warning
            cleanup_tmp_directories=create,  # what a killed process left half-written
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
        )

    @property
    def latest(self) -> int:
        """The newest step that was saved; 0 before the first."""
        return self.manager.latest_step() or 0

    @property
    def best(self) -> int:
        """The step with the best validation rSum; the newest if none was evaluated."""
        return self.manager.best_step() or self.latest

    def newest_intact(self) -> Intact:
        """The newest checkpoint that is not damaged.

        Raises:
            UserError: all are damaged.
        """
        damages = []
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                checksums.verify(self.folder / str(step))
            except UserError as error:
                damages.append(str(error))
                continue
            return Intact(step, "; ".join(damages))
        raise UserError(f"{self.workdir}: all checkpoints are damaged: {'; '.join(damages)}")

    def delete_after(self, step: int) -> None:
        """Deletes the (damaged) checkpoints after `step`, because their steps are about to be repeated."""
        for later in [each for each in self.manager.all_steps() if each > step]:
            self.manager.delete(later)

    def save(self, state: State, run: Description, metrics: dict[str, float] | None) -> None:
        """Writes the state after `state.step` updates, in the background; `opt_state` may be None.

        Raises:
            UserError: this checkpoint or the one before could not be written.
        """
        step = int(state.step)
        items: dict[str, Any] = {
            "data": ocp.args.JsonSave({"step": step}),  # type: ignore[call-arg]
            "config": ocp.args.JsonSave(run.config.to_dict()),  # type: ignore[call-arg]
            "facts": ocp.args.JsonSave(run.facts.to_dict()),  # type: ignore[call-arg]
            "tokenizer": ocp.args.JsonSave(json.loads(run.tokenizer.to_json())),  # type: ignore[call-arg]
        }
        for name in ("params", "opt_state", "ema"):
            tree = getattr(state, name)
            if tree is not None:
                items[name] = ocp.args.StandardSave(tree)  # type: ignore[call-arg]
        with self._write_errors():
            self.manager.wait_until_finished()
            self._writing = step
            self.manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)

    def read_description(self, step: int) -> Description:
        """The config, the facts and the tokenizer that were saved with `step`."""
        names = "config", "facts", "tokenizer"
        checksums.verify(self.folder / str(step), *names)
        items = self._read(step, **{name: ocp.args.JsonRestore() for name in names})
        config = config_lib.from_dict(items["config"])
        facts = config_lib.facts_from_dict(items["facts"])
        return Description(config, facts, Tokenizer.from_json(json.dumps(items["tokenizer"])))

    def restore_state(self, step: int, like: State) -> State:
        """The state at `step`, with the shardings of `like`, which may be abstract (`abstract_state`)."""
        if self.manager.item_metadata(step).get("opt_state") is None:
            raise UserError(
                f"{self.workdir}: converted weights without optimizer state, from which no run resumes; train"
                " in another --workdir, starting from these weights (config.start)"
            )
        trees = {"params": like.params, "opt_state": like.opt_state}
        if like.ema is not None:
            trees["ema"] = like.ema
        restore = ocp.args.StandardRestore
        items = {name: restore(jax.tree.map(_abstract, tree)) for name, tree in trees.items()}  # type: ignore[call-arg]
        read = self._read(step, data=ocp.args.JsonRestore(), **items)
        count = jax.device_put(jax.numpy.int32(read["data"]["step"]), like.step.sharding)
        return State(count, read["params"], read["opt_state"], read.get("ema"))

    def restore_params(self, step: int, like: PyTree, averaged: bool) -> Params:
        """The parameters at `step` (or their averages), with the shardings of the abstract `like`."""
        item = "ema" if averaged else "params"
        checksums.verify(self.folder / str(step), item)
        return self._read(step, **{item: ocp.args.StandardRestore(like)})[item]  # type: ignore[call-arg]

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
            UserError: a checkpoint could not be written.
        """
        with self._write_errors():
            self.manager.wait_until_finished()
        self.manager.close()

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self.manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, FileNotFoundError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{self.workdir}: checkpoint {step} does not fit its config or is damaged: {reason}"
            ) from error

    def _write_checksums(self) -> None:
        """Called in one process when all files of a checkpoint are there, before it gets its final name."""
        final = self.folder / str(self._writing)  # exists if Orbax writes in place, as in a bucket
        for folder in [final] if final.exists() else self.folder.glob(f"{self._writing}.*"):
            checksums.write(folder)

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Makes one line of what goes wrong in writing, such as a full disk."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            latest = max(ocp.utils.checkpoint_steps(self.folder), default=0)
            kept = f"checkpoint {latest} is kept" if latest else "there is none before it"
            raise UserError(
                f"{self.workdir}: checkpoint {self._writing} could not be written, {kept}: {reason}"
            ) from error


def _abstract(array: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
