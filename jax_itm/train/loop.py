"""The training loop: evaluate and save when due, update, log, until the last step or a signal."""

import contextlib
from collections.abc import Iterator
from contextlib import closing
from signal import Signals
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_itm import config as config_lib
from jax_itm.data.augment import augmentation_of
from jax_itm.data.batches import BatchIterator, BatchOptions, ProcessShard, train_batches
from jax_itm.data.image_transforms import image_transform_of
from jax_itm.data.pools import Pools, read_neighbours
from jax_itm.data.readers import give_memory_back
from jax_itm.distributed import preflight
from jax_itm.distributed.cluster import AUTODETECT, Cluster, is_main_process, is_single_process, start
from jax_itm.distributed.mesh import per_device, shard_local_batch
from jax_itm.distributed.watchdog import StopSignal, heartbeat, others_may_be_lost, watchdog
from jax_itm.durations import steps_of
from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import evaluate
from jax_itm.evaluation.isd import isd
from jax_itm.lock import locked
from jax_itm.methods import example_batch
from jax_itm.methods.base import HasMaps
from jax_itm.storage import as_path
from jax_itm.train import provenance
from jax_itm.train import step as step_lib
from jax_itm.train.logger import Clock, CollapseAlarm, Logger
from jax_itm.train.memory import shortage
from jax_itm.train.run import Run, build
from jax_itm.train.step import Status, check_finite
from jax_itm.types import Config, Terms


class DeviceOutcome(NamedTuple):
    """What an update returned in addition to the state, on the devices."""

    step: int  # number of updates completed
    terms: Terms
    status: Status


class HostOutcome(NamedTuple):
    """The same on the host, checked; equal in all processes."""

    terms: dict[str, float]
    stop_signal: int


def train(config: Config, workdir: str, cluster: Cluster = AUTODETECT, accept_new_data: bool = False) -> int:
    """Trains the run of `config` in `workdir`, or resumes it, with the processes of `cluster`.

    Args:
        config: of the run.
        workdir: the run's directory; no other training may use it meanwhile.
        cluster: where the other processes are.
        accept_new_data: whether it may resume on other data than it was started on.

    Returns:
        The exit status: 0 if the run is complete; 128 + the number of the signal if Ctrl-C or SIGTERM stopped
        it (sent to any of its processes) after saving, so that a scheduler starts it again. What one of
        several processes does if it fails or another is lost: `distributed/watchdog.py`.
    """
    mesh = start(cluster)
    preflight.check(mesh, config, {"--workdir": workdir}, cluster.start_timeout)
    with watchdog(config.patience), exclusive(workdir):
        run = build(config, workdir, mesh, accept_new_data)
        if is_main_process():
            (as_path(workdir) / "config.json").write_text(config_lib.to_json(config))
            provenance.record(workdir, int(run.state.step))
        with finishing_saves(run), StopSignal() as stop_signal, jax.set_mesh(mesh):
            stopped_by = loop(run, workdir, stop_signal)
            give_memory_back()
    return 128 + stopped_by if stopped_by else 0


@contextlib.contextmanager
def exclusive(workdir: str) -> Iterator[None]:
    """Keeps other trainings out of `workdir`; the main process holds the lock, and all raise its error."""
    problem = ""
    with contextlib.ExitStack() as stack:
        if is_main_process():
            try:
                stack.enter_context(locked(workdir, "training"))
            except UserError as error:
                problem = str(error)
        preflight.raise_together(problem)
        yield


def loop(run: Run, workdir: str, stop_signal: StopSignal) -> int:
    """Updates the state of `run` until the last step, or until a process has received a signal.

    All processes read the signal in the status of the same step, so that they stop at the same step.

    Returns:
        The number of the signal that stopped it; 0 if the run is complete.
    """
    config = run.config
    model = run.model
    first = int(run.state.step)
    update = step_lib.train_step(model.method, model.optimizer, run.mesh, config.seed, config.ema, run.state)
    batches = training_batches(run, first)
    clock = Clock(first)
    alarm = CollapseAlarm(triplet_margin(config))
    outcome: DeviceOutcome | None = None
    stopped_by = 0
    with closing(batches), Logger(workdir, run.total_steps, first, is_main_process(), config) as log:
        announce(run, log)
        for step in range(first, run.total_steps + 1):  # one extra turn: evaluates and saves the last state
            heartbeat()
            is_due = step > first and run.is_evaluation_step(step)
            if is_due or stopped_by:
                evaluate_and_save(run, outcome, log, is_due)
                clock.start(step)  # an evaluation is not part of the time of a step
            if step == run.total_steps:
                return 0
            if stopped_by:
                return say_stopped(stopped_by, step, log)
            try:
                batch = shard_local_batch(run.mesh, clock.next(batches))
            except Exception:  # a signal may end what reads, too
                if stop_signal.number and is_single_process():
                    evaluate_and_save(run, outcome, log, is_due=False)
                    return say_stopped(stop_signal.number, step, log)
                raise
            signal = per_device(run.mesh, stop_signal.number)
            previous = outcome
            run.state, terms, status = update(run.state, batch, signal)
            outcome = DeviceOutcome(step + 1, terms, status)
            if step == first:
                log.message(f"compiled in {clock.restart(step + 1):.1f} s")  # no part of the time of a step
            # Reads the *previous* step's outcome, so the devices already work on this one; a stop signal is
            # therefore seen one step late.
            stopped_by = fetch_and_check(run, previous).stop_signal
            if outcome.step % config.log_every == 0 or outcome.step == run.total_steps:
                log_step(run, outcome, clock, alarm, log)
    return 0  # without a turn: the restored state is past the last step


def say_stopped(number: int, step: int, log: Logger) -> int:
    """Says that a signal has ended the run, and how it goes on; returns the signal's number."""
    log.message(
        f"{Signals(number).name}: stopped and saved after step {step}; the same command resumes there"
    )
    return number


def triplet_margin(config: Config) -> float:
    """The margin of the triplet term; 0 where there is none."""
    term = config.losses.get("triplet")
    return term.margin if term and term.weight else 0.0


@contextlib.contextmanager
def finishing_saves(run: Run) -> Iterator[None]:
    """Completes a save that is under way, unless that would wait for a process that may be lost."""
    try:
        yield
    except BaseException as error:
        if not others_may_be_lost(error):
            run.checkpoints.close()
        raise
    run.checkpoints.close()


def training_batches(run: Run, first_step: int) -> BatchIterator:
    """This process's rows of the batches from `first_step` on."""
    config = run.config
    data = config.data
    options = BatchOptions(
        batch_size=config.batch_size,
        seed=config.seed,
        max_words=data.max_words,
        max_regions=data.max_regions,
        transform=image_transform_of(config, run.model.facts),
        augmentation=augmentation_of(config),
        pools=pools_of(run),
    )
    return train_batches(
        run.data.training,
        run.model.tokenizer,
        options,
        first_step=first_step,
        workers=data.workers,
        shard=ProcessShard(jax.process_index(), jax.process_count()),
    )


def pools_of(run: Run) -> Pools | None:
    """How the pairs of a pool are chosen, where the config names a file of neighbours."""
    mining = run.config.get("mining")
    if not mining or not mining.neighbours:
        return None
    neighbours = read_neighbours(mining.neighbours, run.data.train.identity())
    to_steps = lambda duration: steps_of(duration, run.config.batch_size, run.data.epoch_examples)
    return Pools(mining.pool, neighbours, mining.near, to_steps(mining.random_for), to_steps(mining.ramp))


def fetch_and_check(run: Run, outcome: DeviceOutcome | None) -> HostOutcome:
    """Blocks until the step's outcome is on the host.

    Before the first step there is none: no terms, no signal.

    Raises:
        UserError: a term is not finite.
    """
    if outcome is None:
        return HostOutcome({}, 0)
    values, status = jax.device_get((outcome.terms, outcome.status))
    terms = {name: float(value) for name, value in values.items()}
    row = int(status.first_nonfinite_row)
    process = process_of_row(run, row) if row >= 0 else None
    check_finite(terms, outcome.step, run.checkpoints.latest, run.model.method.reasons, process)
    return HostOutcome(terms, int(status.stop_signal))


def process_of_row(run: Run, row: int) -> int:
    """The process that read a row of the global batch."""
    rows_per_device = run.config.batch_size // run.mesh.size
    return list(run.mesh.devices.flat)[row // rows_per_device].process_index


def evaluate_and_save(run: Run, outcome: DeviceOutcome | None, log: Logger, is_due: bool) -> None:
    """Checks that the last step was finite, evaluates if due, saves."""
    fetch_and_check(run, outcome)  # for the check alone: `loop` logs its terms and reads its signal
    metrics = None
    if is_due:
        try:
            result = validate(run)
        except BaseException as error:  # the steps since the last checkpoint are not lost with it
            if not others_may_be_lost(error):
                run.checkpoints.save(run.state, run.matcher.description, None)
            raise
        metrics = {"rsum": result["rsum"]}
        log.evaluation(int(run.state.step), metrics | flat_metrics(result))
    run.checkpoints.save(run.state, run.matcher.description, metrics)


def validate(run: Run) -> dict[str, Any]:
    """Retrieval metrics of the state on the validation split, and ISD if the method has attention maps.

    Those of each further set of a mixture are below "sets", by its label.
    """
    run.matcher.params = run.state.evaluation_params
    run.matcher.step = int(run.state.step)
    result = evaluate(run.matcher, run.data.validation, run.config.evaluate.protocol)
    if isinstance(run.model.method, HasMaps):
        result["isd"] = isd(run.matcher, run.data.validation)
    result["sets"] = {
        other.label: evaluate(run.matcher, other.validation) for other in run.data.others
    }  # of any size, so by the protocol "full"
    return result


def flat_metrics(result: dict[str, Any]) -> dict[str, float]:
    """{"i2t/r1": .., ..}; the numbers of pairs in ISD are left out, because they never change."""
    parts = [part for part in ("i2t", "t2i", "isd") if part in result]
    flat = {f"{part}/{k}": value for part in parts for k, value in result[part].items() if "pairs" not in k}
    for label, other in result.get("sets", {}).items():
        flat |= {f"{label}/{name}": value for name, value in flat_metrics(other).items()}
        flat[f"{label}/rsum"] = other["rsum"]
    return flat


def announce(run: Run, log: Logger) -> None:
    """Says what is about to be trained."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    log.message(f"{parameters:,} parameters, {run.mesh.size} devices, {run.total_steps} steps")
    shapes = jax.eval_shape(lambda: example_batch(run.config, run.model.facts, run.config.batch_size))
    lacking = shortage(run.model.method, run.state, shapes, run.mesh)
    for message in (*run.messages, *([f"warning: {lacking}"] if lacking else [])):
        log.message(message)


def log_step(run: Run, outcome: DeviceOutcome, clock: Clock, alarm: CollapseAlarm, log: Logger) -> None:
    """Logs the terms, learning rate and pace of a step, and warns of a collapse."""
    terms = fetch_and_check(run, outcome).terms
    scalars = terms | {"learning_rate": float(np.asarray(run.model.learning_rate(outcome.step - 1)))}
    if pace := clock.read(outcome.step):
        scalars |= {
            "step_seconds": pace.step_seconds,
            "examples_per_second": run.config.batch_size / pace.step_seconds,
            "data_wait_fraction": pace.data_wait_fraction,
        }
    log.train(outcome.step, scalars)
    # The mean hinge: the triplet loss sums over both directions.
    hinge = terms.get("triplet", np.inf) / (2 * run.config.batch_size)
    if warning := alarm.update(hinge, terms.get("gap", np.inf)):
        log.message(warning)
