"""Assembles a run: data, method, a new or restored state, and the steps at which it evaluates."""

import dataclasses
from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh

from jax_itm import config as config_lib
from jax_itm import methods
from jax_itm.checkpoint.checkpoints import Checkpoints, Description, has_checkpoint
from jax_itm.checkpoint.state import State, abstract_state, init_state
from jax_itm.config import Facts
from jax_itm.data.mixture import Mixture
from jax_itm.data.prepared import open_split
from jax_itm.data.split import Split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import check_batch
from jax_itm.distributed.preflight import check_equal
from jax_itm.durations import steps_of
from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import check_fits, split_folds
from jax_itm.inference.matcher import Matcher
from jax_itm.inference.token_cache import attach_tokens
from jax_itm.methods import Method, example_batch
from jax_itm.pretrained.architectures import with_vocabulary
from jax_itm.train.init_from import read_source
from jax_itm.train.optimizer import build as build_optimizer
from jax_itm.train.start_rules import start_from
from jax_itm.train.word_vectors import start_word_table
from jax_itm.types import Config

FITTED = 1_000_000  # captions of each split that a tokenizer is fitted on, the first: memory does not grow


class OtherSet(NamedTuple):
    """A further set of `config.data.mixture`; its label is its name, with a number where that is taken."""

    label: str
    train: Split
    validation: Split
    weight: float


class Data(NamedTuple):
    """The splits of a run."""

    train: Split
    validation: Split
    others: tuple[OtherSet, ...] = ()

    @property
    def training(self) -> Split | Mixture:
        """What batches are made of."""
        if not self.others:
            return self.train
        splits = (self.train, *(other.train for other in self.others))
        return Mixture(splits, (1.0, *(float(other.weight) for other in self.others)))

    @property
    def epoch_examples(self) -> int:
        """Examples in an epoch: one pass over the training captions."""
        return self.train.caption_count + sum(other.train.caption_count for other in self.others)

    @property
    def facts(self) -> Facts:
        """The facts that the data alone determine."""
        splits = {"train": self.train.identity(), "validation": self.validation.identity()}
        splits |= {f"mixture.{other.label}": other.train.identity() for other in self.others}
        return Facts(region_dim=self.train.region_dim or 0, data=splits)


class Model(NamedTuple):
    """Everything built from config, data and facts before parameters exist.

    Attributes:
        facts: what the data and the pretrained encoders are.
        tokenizer: of the captions.
        method: the model and its loss.
        optimizer: of the method's parameters.
        learning_rate: at each step.
        abstract_state: shape, type and sharding of each array of the training state.
    """

    facts: Facts
    tokenizer: Tokenizer
    method: Method
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    abstract_state: State


@dataclasses.dataclass
class Run:
    """Everything the loop uses. The loop replaces `state`, points `matcher` at it, and writes `checkpoints`.

    Attributes:
        config: of the run.
        mesh: over all devices.
        data: the splits.
        model: the method and its optimizer.
        state: after `state.step` updates.
        matcher: evaluates the state.
        checkpoints: of the work directory.
        messages: what to say before the first step, a line each: where the run resumes, what it starts from.
    """

    config: Config
    mesh: Mesh
    data: Data
    model: Model
    state: State
    matcher: Matcher
    checkpoints: Checkpoints
    messages: tuple[str, ...]

    @property
    def total_steps(self) -> int:
        """Updates in the whole run."""
        return steps_of(self.config.duration, self.config.batch_size, self.data.epoch_examples)

    @property
    def evaluate_every(self) -> int:
        """Updates between evaluations."""
        return steps_of(self.config.evaluate.every, self.config.batch_size, self.data.epoch_examples)

    def is_evaluation_step(self, step: int) -> bool:
        """Whether the state after `step` updates is evaluated and saved."""
        return step % self.evaluate_every == 0 or step == self.total_steps


def build(config: Config, workdir: str, mesh: Mesh, accept_new_data: bool = False) -> Run:
    """The run of `config`: restored from the checkpoints in `workdir`, or a new one if there are none.

    Nothing is written or deleted if it cannot start. Once it can, checkpoints after the restored one are
    deleted: they are damaged, and their steps are about to be repeated.

    Args:
        config: of the run.
        workdir: the run's directory.
        mesh: over all devices.
        accept_new_data: whether a run may resume on other data than it was started on.

    Raises:
        UserError: the config does not fit the data, the devices, or the run in `workdir`; or the processes
            have different data.
    """
    check_batch(config.batch_size, mesh.size, "config.batch_size", config.micro_batches)
    data = open_data(config)
    check_equal({f"config.data.{name}": identity for name, identity in data.facts.data.items()})
    if has_checkpoint(workdir):
        model, state, messages = restore(config, workdir, mesh, data, accept_new_data)
    else:
        model, state, messages = init(config, mesh, data)
    description = Description(config, model.facts, model.tokenizer)
    own = attach_tokens(description, state.params, (data.train, data.validation), required=True)
    data = data._replace(train=own[0], validation=own[1])
    matcher = Matcher(description, model.method, mesh)
    checkpoints = Checkpoints(workdir, create=True)
    checkpoints.delete_after(int(state.step))
    return Run(config, mesh, data, model, state, matcher, checkpoints, messages)


def open_data(config: Config) -> Data:
    """Opens the splits."""
    data = config.data
    train = open_split(data.name, data.data_dir, data.train, data.modality)
    validation = open_split(data.name, data.data_dir, data.validation, data.modality)
    splits = Data(train, validation.first(config.evaluate.images), open_others(config))
    others = [split for other in splits.others for split in (other.train, other.validation)]
    for split in (splits.train, splits.validation, *others):
        check_fits(config, splits.facts, split)
    split_folds(splits.validation, config.evaluate.protocol)
    return splits


def open_others(config: Config) -> tuple[OtherSet, ...]:
    """Opens the further sets of a mixture."""
    data = config.data
    labels = [data.name]
    others = []
    for name, data_dir, weight in data.mixture:
        label = name if name not in labels else f"{name}_{len(labels) + 1}"
        labels.append(label)
        train = open_split(name, data_dir, data.train, data.modality)
        validation = open_split(name, data_dir, data.validation, data.modality)
        others.append(OtherSet(label, train, validation.first(config.evaluate.images), weight))
    return tuple(others)


class Start(NamedTuple):
    """What a run starts or resumes with.

    Attributes:
        model: the method and its optimizer.
        state: of training.
        messages: what to say of it, a line each.
    """

    model: Model
    state: State
    messages: tuple[str, ...]


def init(config: Config, mesh: Mesh, data: Data) -> Start:
    """The model and the state before the first step of a new run."""
    source = read_source(config, data.facts)
    if source and source.tokenizer:
        tokenizer = source.tokenizer  # the parameters were trained with its ids
    else:
        options = config.data
        splits = (data.train, *(other.train for other in data.others))
        captions = [caption for split in splits for caption in split.first_captions(FITTED)]
        tokenizer = Tokenizer.fit(captions, options.tokenizer, options.min_count, options.vocab_size)
    facts = (source.facts if source else data.facts)._replace(vocab=len(tokenizer))
    if config.text.arch and not config.start:
        arch = with_vocabulary(facts.text_architecture, len(tokenizer))
        facts = facts._replace(text_architecture=arch)
    model = build_model(config, facts, tokenizer, mesh, data.epoch_examples)
    params = jax.jit(model.method.init)(jax.random.key(config.seed), example_batch(config, facts))
    notes = source.notes if source else ()
    if source:
        params = start_from(params, source)
    if config.text.vectors and not config.start:
        params, note = start_word_table(params, tokenizer, config.text.vectors)
        notes = (*notes, note)
    state = init_state(params, model.optimizer, config.ema > 0, mesh, config.fsdp)
    return Start(model, state, notes)


def restore(config: Config, workdir: str, mesh: Mesh, data: Data, accept_new_data: bool) -> Start:
    """The model and the state of the run in `workdir`; a message if newer checkpoints are damaged."""
    checkpoints = Checkpoints(workdir)
    step, warning = checkpoints.newest_intact()
    saved = checkpoints.read_description(step)
    check_resumable(config, saved.config, workdir)
    if data.facts.region_dim != saved.facts.region_dim:
        raise UserError(
            f"{config.data.name}: regions of size {data.facts.region_dim}, but the run in {workdir} was"
            f" started with {saved.facts.region_dim}"
        )
    messages = [f"warning: {warning}"] if warning else []
    if changed := changed_data(data.facts, saved.facts):
        if not accept_new_data:
            raise UserError(
                f"{changed}, with which the run in {workdir} was started; resume it on that data, choose"
                " another --workdir, or accept the new data with --accept_new_data"
            )
        messages.append(f"warning: {changed}, with which this run was started")
    facts = saved.facts._replace(data=data.facts.data)
    model = build_model(config, facts, saved.tokenizer, mesh, data.epoch_examples)
    state = checkpoints.restore_state(step, model.abstract_state)
    checkpoints.close()
    return Start(model, state, (*messages, f"resuming from step {step:,} of {workdir}"))


def changed_data(now: Facts, saved: Facts) -> str:
    """How the data differ from those that a run was started on, split by split; "" if they do not."""
    return "; ".join(
        f"config.data.{split}: is {identity}, not {saved.data[split]}"
        for split, identity in now.data.items()
        if saved.data.get(split, identity) != identity
    )


def check_resumable(config: Config, saved: Config, workdir: str) -> None:
    """Raises UserError if a field that must not change on resume differs between `config` and `saved`."""
    before = config_lib.flatten(saved)
    may_change = config_lib.resumable_fields(config)
    for name, value in config_lib.flatten(config).items():
        if name not in may_change and before.get(name) != value:
            raise UserError(
                f"config.{name}={value!r}: the run in {workdir} was started with {before.get(name)!r};"
                " resume it with that value, or choose another --workdir"
            )


def build_model(config: Config, facts: Facts, tokenizer: Tokenizer, mesh: Mesh, epoch_examples: int) -> Model:
    """The method, its optimizer, and the abstract state of a run."""
    method = methods.build(config, facts, epoch_examples)
    total_steps = steps_of(config.duration, config.batch_size, epoch_examples)
    params = jax.eval_shape(method.init, jax.random.key(config.seed), example_batch(config, facts))
    optimizer, learning_rate = build_optimizer(config, params, total_steps, epoch_examples)
    state = abstract_state(params, optimizer, config.ema > 0, mesh, config.fsdp)
    return Model(facts, tokenizer, method, optimizer, learning_rate, state)
