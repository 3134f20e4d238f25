"""What a run needs on a slice of chips that this machine lacks: memory, estimated time, collectives."""

import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jax_itm.aot import hlo
from jax_itm.aot.programs import PARTS, Step, steps
from jax_itm.config import Facts
from jax_itm.errors import UserError, memory_shortage
from jax_itm.platforms import Chip
from jax_itm.types import Config

MIB = 2**20
# What to change where a training step does not fit, the cheapest first; each on top of those before.
REMEDIES: tuple[Mapping[str, Any], ...] = (
    {"remat": True},
    {"micro_batches": 2},
    {"micro_batches": 4},
    {"micro_batches": 8},
    {"fsdp": True},
)


class Compiled(NamedTuple):
    """A program as the compiler made it.

    Attributes:
        name: of the program.
        state: bytes of its arguments on one device: the state, or the parameters, and the batch.
        temporary: bytes beside them.
        milliseconds: estimated, of each part; {} where the compiler estimates none.
        collectives: what devices send.
        seconds: that compiling took.
        excess: what does not fit, in the compiler's words; "" if it fits.
    """

    name: str
    state: int
    temporary: int
    milliseconds: dict[str, float]
    collectives: list[hlo.Collective]
    seconds: float
    excess: str = ""


def compile_step(step: Step, mesh: Mesh, chip: Chip) -> Compiled:
    """Compiles a program for the devices of a mesh.

    Raises:
        jax.errors.JaxRuntimeError: it cannot be compiled, for another reason than its size.
    """
    start = time.monotonic()
    with jax.set_mesh(mesh):
        lowered = step.lower()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return Compiled(step.name, 0, 0, {}, [], time.monotonic() - start, _excess(str(error)))
    program = hlo.parse(compiled.as_text())
    cycles = hlo.cycles_by(program, PARTS)
    memory = compiled.memory_analysis()
    return Compiled(
        step.name,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        {part: count / chip.clock / 1e6 for part, count in cycles.items()} if chip.clock else {},
        hlo.collectives(program, [tuple(getattr(device, "coords", ())) for device in mesh.devices.flat]),
        time.monotonic() - start,
    )


def _excess(message: str) -> str:
    shortage = memory_shortage(message)
    return f"needs {shortage}" if shortage else " ".join(message.split())[:120]


def report(config: Config, facts: Facts, mesh: Mesh, chip: Chip, epoch_examples: int) -> Iterator[str]:
    """The lines of the report: a table of the programs, the collectives of a training step, and advice."""
    yield f"{mesh.size} chips of {chip.memory} GiB; jax {jax.__version__}, {_compiler(chip)}"
    if chip.clock:
        yield "Times are the compiler's estimates, without collectives, gathers, sorts, latency: nothing ran."
    else:
        yield "The compiler for GPUs estimates no times: nothing ran."
    yield ""
    columns = ["state MiB", "temporary MiB", *(f"{part} ms" for part in (*PARTS, "other"))]
    yield f"| program | {' | '.join(columns)} | compiled in s |"
    yield f"| --- |{' ---: |' * (len(columns) + 1)}"
    training = None
    for step in steps(config, facts, mesh, epoch_examples):
        compiled = compile_step(step, mesh, chip)
        training = training or compiled
        yield _row(compiled)
    assert training is not None
    yield ""
    if training.excess:
        yield f"The training step does not fit: it {training.excess} a chip."
        yield _remedy(config, facts, mesh, chip, epoch_examples)
    else:
        yield from _collectives(training)


def _row(compiled: Compiled) -> str:
    if compiled.excess:
        cells = [compiled.excess] + ["-"] * (len(PARTS) + 2)
    else:
        cells = [f"{compiled.state / MIB:,.0f}", f"{compiled.temporary / MIB:,.0f}"]
        times = compiled.milliseconds
        cells += [f"{times[part]:.2f}" if times else "-" for part in (*PARTS, "other")]
    return f"| {compiled.name} | {' | '.join(cells)} | {compiled.seconds:.0f} |"


def _collectives(compiled: Compiled) -> Iterator[str]:
    if not compiled.collectives:
        return
    header = "count | MiB per chip | longest path, links | overlapped"
    yield f"| collectives of a {compiled.name} | {header} |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for row in compiled.collectives:
        distance = row.distance or "-"
        yield f"| {row.kind} | {row.count} | {row.bytes / MIB:,.1f} | {distance} | {row.overlapped} |"


def _remedy(config: Config, facts: Facts, mesh: Mesh, chip: Chip, epoch_examples: int) -> str:
    """The first of `REMEDIES` with which the training step fits, found by compiling it."""
    changed: dict[str, Any] = {}
    trial = config.copy_and_resolve_references()
    for fields in REMEDIES:
        if fields.items() <= {name: config[name] for name in fields}.items():
            continue
        changed |= fields
        trial.update(fields)
        if trial.batch_size % (mesh.size * trial.micro_batches):
            continue
        try:
            compiled = compile_step(next(steps(trial, facts, mesh, epoch_examples)), mesh, chip)
        except UserError:  # the fields do not go together
            continue
        if not compiled.excess:
            options = " ".join(f"--config.{name}={value}" for name, value in changed.items())
            return f"It fits with {options}: {(compiled.state + compiled.temporary) / MIB:,.0f} MiB."
    return "It fits with none of remat, micro_batches, fsdp: choose a smaller batch_size, or more chips."


def _compiler(chip: Chip) -> str:
    package = "libtpu" if chip.kind.startswith("TPU") else "jax-cuda13-plugin"
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} of an unknown version"
