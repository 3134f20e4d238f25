"""Training: set up a run, then evaluate on the old state, save, next batch, step, log."""

import json
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jax_itm import config as config_lib
from jax_itm.checkpoint.checkpoints import Checkpoints, found
from jax_itm.checkpoint.state import init_state
from jax_itm.data.augment import augment_of
from jax_itm.data.batches import train_batches
from jax_itm.data.image_transforms import frame_of
from jax_itm.data.prepared import open_split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed import preflight
from jax_itm.distributed.cluster import ALONE, Cluster, is_main, start
from jax_itm.distributed.mesh import check_batch, shard_rows
from jax_itm.distributed.watchdog import Interrupts, alone, moved, together
from jax_itm.durations import steps_of
from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import check_fits, evaluate
from jax_itm.evaluation.isd import isd
from jax_itm.inference.matcher import Matcher
from jax_itm.inference.token_cache import attached
from jax_itm.methods import build, example_batch
from jax_itm.storage import place
from jax_itm.train import step
from jax_itm.train.init_from import Start, keep_towers, open_start, started
from jax_itm.train.logger import Clock, CollapseAlarm, Logger
from jax_itm.train.optimizer import build as build_optimizer
from jax_itm.train.step import check_finite
from jax_itm.types import Batch, Terms

# What may change when a run goes on: where things lie and how much is said, never what is computed.
FREE = (
    "data.data_dir",
    "data.max_pixels",  # checked when the set was made
    "data.source",
    "data.workers",
    "image.path",  # a tower is read when a run starts, and then is the run's own
    "text.path",
    "evaluate.batch_size",
    "log_every",
    "fsdp",
    "remat",
    "patience",
    "similarity.form",
    "similarity.tile",
)


class Run:
    """A run before its first step: data, method, state, and what has been saved of it."""

    def __init__(self, config, workdir: str, mesh: Mesh):
        data, self.mesh = config.data, mesh
        check_batch(config.batch_size, self.mesh.size, "config.batch_size", config.micro_batches)
        self.split = open_split(data.name, data.data_dir, data.train, data.view)
        self.validation = open_split(data.name, data.data_dir, data.validation, data.view)
        self.validation = self.validation.first(config.evaluate.images)
        with config.unlocked():
            data.region_dim = self.split.region_dim or 0
        for split in (self.split, self.validation):
            check_fits(config, split)
        self.config = config
        saved = Checkpoints(workdir) if found(workdir) else None
        start = None if saved else open_start(config)
        at, self.warning = saved.newest_whole() if saved else (0, "")
        self.tokenizer = self._resume_tokenizer(saved, at) if saved else self._first_tokenizer(start)
        examples = len(self.split.caption_image)
        to_steps = lambda duration: steps_of(duration, config.batch_size, examples)
        self.total, self.evaluate_every = to_steps(config.duration), to_steps(config.evaluate.every)
        self.method = build(config, len(self.tokenizer), examples)
        params = jax.jit(self.method.init)(jax.random.key(config.seed), example_batch(config))
        if start:
            params = started(params, start)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        self.optimizer, self.rate = build_optimizer(config, params, self.total, examples)
        self.state = init_state(params, self.optimizer, config.ema > 0, self.mesh, config.fsdp)
        if saved:
            self.state = saved.state(at, self.state)
            saved.close()
        given = config, self.state.params, self.tokenizer, self.split, self.validation
        self.split, self.validation = attached(*given, needed=True)
        self.matcher = Matcher(config, self.method, self.tokenizer, self.mesh)
        # Last: a run that cannot start writes nothing.
        self.checkpoints = Checkpoints(workdir, create=True)
        self.checkpoints.drop_after(int(self.state.step))

    def _first_tokenizer(self, start: Start | None) -> Tokenizer:
        if start and start.tokenizer:
            return start.tokenizer  # its ids are what the parameters know
        data = self.config.data
        return Tokenizer.fit(self.split.captions(), data.tokenizer, data.min_count, data.vocab_size)

    def _resume_tokenizer(self, saved: Checkpoints, at: int) -> Tokenizer:
        config, tokenizer = saved.description(at)
        older = config_lib.from_json(json.dumps(config))
        old, new = config_lib.flatten(older), config_lib.flatten(self.config)
        changed = [name for name in new if name not in FREE and old.get(name) != new[name]]
        if changed:
            name = changed[0]
            raise UserError(
                f"config.{name}={new[name]!r}: the run in {saved.workdir} was started"
                f" with {old.get(name)!r}; go on with that, or take another --workdir"
            )
        keep_towers(self.config, older)
        return Tokenizer.from_json(json.dumps(tokenizer))

    def batches(self):
        """The batches from the state's step on; this process's rows of each."""
        data = self.config.data
        return train_batches(
            self.split,
            self.tokenizer,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            first_step=int(self.state.step),
            max_words=data.max_words,
            max_regions=data.max_regions,
            frame=frame_of(self.config),
            augment=augment_of(self.config),
            workers=data.workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def placed(self, batch: Batch, asked: int) -> Batch:
        """The global batch of this process's rows, with the signal that this process was sent."""
        rows = len(batch["image_id"])
        return shard_rows(self.mesh, batch | {"asked": np.full(rows, asked, np.int32)})

    def read(self, scalars: Terms, at: int) -> tuple[dict[str, float], int]:
        """Waits for the scalars of step `at`: what is logged, and a signal that any process was sent.

        All processes read the same, so that they stop at the same step.

        Raises:
            UserError: a term is not finite.
        """
        values = {name: float(value) for name, value in jax.device_get(scalars).items()}
        row, asked = int(values.pop("faulty", -1)), int(values.pop("asked", 0))
        each = self.config.batch_size // self.mesh.size
        devices: Any = self.mesh.devices.flat
        process = devices[row // each].process_index if row >= 0 else None
        check_finite(values, at, self.checkpoints.last, self.method.reasons, process)
        return values, asked

    def validate(self) -> dict:
        """The validation split's retrieval numbers of the present state, and ISD where there are maps."""
        self.matcher.params, self.matcher.step = self.state.best_params, int(self.state.step)
        result = evaluate(self.matcher, self.validation, self.config.evaluate.protocol)
        if hasattr(self.method, "maps"):
            result["isd"] = isd(self.matcher, self.validation)
        return result

    def save(self, result: dict | None) -> None:
        """Writes a checkpoint, with its validation rSum where there is one."""
        self.checkpoints.save(
            self.state,
            self.config.to_dict(),
            json.loads(self.tokenizer.to_json()),
            {"rsum": result["rsum"]} if result else None,
        )


def train(config, workdir: str, cluster: Cluster = ALONE) -> int:
    """Trains, or goes on training, the run of `config` in `workdir`, with the processes of `cluster`.

    Returns:
        The exit status: 0 when the run is complete, 128 + the signal's number when it was stopped
        by Ctrl-C or SIGTERM (sent to any of its processes) after saving, so that a scheduler starts
        it again. What one of several processes does when it fails or another is lost: `watch.py`.
    """
    mesh = start(cluster)
    preflight.check(mesh, config, {"--workdir": workdir}, cluster.start_timeout)
    with together(config.patience):
        run = Run(config, workdir, mesh)
        if is_main():
            (place(workdir) / "config.json").write_text(config_lib.to_json(config))
        try:
            with Interrupts() as interrupts, jax.set_mesh(run.mesh):
                stopped = loop(run, workdir, interrupts)
        except BaseException as error:
            if not alone(error):
                run.checkpoints.close()
            raise
        run.checkpoints.close()  # a save that is under way ends first
    return 128 + stopped if stopped else 0


def loop(run: Run, workdir: str, interrupts: Interrupts) -> int:
    """Evaluate and save the state, take a batch, step, log; until the last step or a signal.

    Returns:
        The number of the signal that stopped it; 0 where the run is complete.
    """
    config, first = run.config, int(run.state.step)
    update = step.train_step(run.method, run.optimizer, run.mesh, config.seed, config.ema, run.state)
    alarm = CollapseAlarm(config.method.get("margin", 0.0))
    scalars, asked, batches, clock = {}, 0, iter(run.batches()), Clock(first)
    with Logger(workdir, run.total, first, is_main=is_main()) as log:
        log.message(f"{run.parameters:,} parameters, {run.mesh.size} devices, {run.total} steps")
        if run.warning:
            log.message(f"warning: {run.warning}")
        for at in range(first, run.total + 1):
            moved()
            due = at > first and (at % run.evaluate_every == 0 or at == run.total)
            if due or asked:
                run.read(scalars, at)
                result = run.validate() if due else None
                if result:
                    log.evaluation(at, {"rsum": result["rsum"]} | _flat(result))
                run.save(result)
                clock.start(at)  # a step's time is not the evaluation's
            if at == run.total:
                return 0
            if asked:
                return asked
            batch, previous = run.placed(clock.next(batches), interrupts.signal), scalars
            run.state, scalars = update(run.state, batch)
            # The step before, so that the devices have work while the host reads it.
            _, asked = run.read(previous, at)
            if (at + 1) % config.log_every == 0:
                values, _ = run.read(scalars, at + 1)
                log.train(at + 1, describe(run, values, at, *clock.read(at + 1)))
                hinge = values.get("triplet", np.inf)
                if warning := alarm.update(hinge / (2 * config.batch_size), values.get("gap", np.inf)):
                    log.message(warning)
    return 0


def describe(run: Run, values: dict[str, float], at: int, seconds: float, waiting: float) -> dict[str, float]:
    """What is logged of a step: terms as they are and weighted, rate, times, the share spent on `waiting`."""
    weights = run.config.method.weights
    weighted = {f"weighted/{k}": w * values[k] for k, w in weights.items() if k in values}
    return (
        values
        | weighted
        | {
            "learning_rate": float(np.asarray(run.rate(at))),
            "step_seconds": seconds,
            "examples_per_second": run.config.batch_size / seconds,
            "data_share": waiting,  # of the time, in which no batch was ready
        }
    )


def _flat(result: dict) -> dict[str, float]:
    """ISD's numbers of pairs are the same at each validation, and left out."""
    parts = (part for part in ("i2t", "t2i", "isd") if part in result)
    return {f"{part}/{k}": v for part in parts for k, v in result[part].items() if "pairs" not in k}
