"""Two real processes train; one is killed again and again, at random moments. By hand: minutes a fault.

    PYTHONPATH=.:tests python tests/benchmarks/faults.py [--faults 20] [--seed 0] [--kinds SIGKILL]

After every fault all are started again with the same command, until the run is complete; its parameters
must then be, bit for bit, those of a run that nothing disturbed. A new run follows until there were enough
faults. Prints a line for each, and a table in the end.
"""

import argparse
import collections
import signal
import tempfile
import time
from pathlib import Path

import numpy as np

from jax_itm.checkpoint.checkpoints import Checkpoints, has_checkpoint
from jax_itm.errors import LOST
from tests.helpers import cluster
from tests.helpers.cluster import STEPS, command
from tests.helpers.tiny_run import params, prepared, same


def last(workdir: Path) -> int:
    """The newest step that was saved; no checkpoint may be damaged."""
    if not has_checkpoint(str(workdir)):
        return 0
    step, warning = Checkpoints(str(workdir)).newest_intact()
    assert not warning, warning
    return step


def disturbed(place: Path, name: str, kinds: list[str], rng: np.random.Generator) -> tuple[str, bool]:
    """One start with one fault: (what came of it, whether the run is complete)."""
    before = last(place / name)
    kind = getattr(signal, str(rng.choice(kinds)))
    moment = int(rng.integers(before + 1, STEPS)), float(rng.uniform(0, 0.5)), int(rng.integers(2))
    fault, start = cluster.Fault(kind, *moment), time.monotonic()
    status, said = cluster.run(command(place, name, patience=90.0), fault)
    after, survivor = last(place / name), status[1 - fault.process]
    ended = "completed" if status == [0, 0] else f"survivor {survivor}"
    ok = survivor in (0, LOST, -signal.SIGABRT, 128 + signal.SIGTERM) and after >= before
    print(
        f"{name}: {kind.name} of process {fault.process}, {fault.delay:.2f} s after step {fault.at}: {ended},"
        f" checkpoint {before} -> {after}, {time.monotonic() - start:.0f} s{'' if ok else ' FAILED'}",
        flush=True,
    )
    if not ok:
        print("\n".join(said))
    return ended if ok else "failed", status == [0, 0]


def soak(place: Path, faults: int, kinds: list[str], seed: int) -> None:
    """All of it; the table in the end."""
    rng, counts, runs = np.random.default_rng(seed), collections.Counter(), 0
    prepared(place, train=25, dev=8)
    status, said = cluster.run(command(place, "whole"))
    assert status == [0, 0], said
    while counts.total() < faults:
        name, done = f"run{runs}", False
        while not done and counts.total() < faults:
            ended, done = disturbed(place, name, kinds, rng)
            counts[ended] += 1
        if not done:
            status, said = cluster.run(command(place, name))
            assert status == [0, 0], said
        same(params(place / "whole"), params(place / name))
        runs += 1
        print(f"{name}: bit-equal to the undisturbed run", flush=True)
    print(f"\n| what came of {faults} faults | times |\n| --- | ---: |")
    print("\n".join(f"| {ended} | {count} |" for ended, count in sorted(counts.items())))
    print(f"| runs that ended bit-equal | {runs} of {runs} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="SIGKILL", help="names of signals, separated by commas")
    inputs = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak(Path(folder), inputs.faults, inputs.kinds.split(","), inputs.seed)
