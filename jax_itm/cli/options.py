"""Options that several commands share."""

import argparse
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax_itm.data.split import Split
    from jax_itm.distributed.cluster import Cluster
    from jax_itm.inference.matcher import Matcher

from jax_itm.protocols import SCORES

DATA_DIR = "data"  # where prepared data sets are by default


def add_data_dir(parser: argparse.ArgumentParser, help: str, default: str | None = None) -> None:
    """Adds --data_dir."""
    parser.add_argument("--data_dir", default=default, help=help)


def add_score(parser: argparse.ArgumentParser) -> None:
    """Adds --score."""
    text = f"another score than the run's: {', '.join(SCORES)} (all but the first are of CDDS's tokens)"
    parser.add_argument("--score", default="", metavar="SCORE", help=text)


def count(text: str) -> int:
    """The type of an option that is a count: 1 or more."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, 1 or more")
    return int(text)


def share(text: str) -> float:
    """The type of an option that is a fraction: from 0 to 1."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text}: must be a number from 0 to 1")


def add_figure(parser: argparse.ArgumentParser) -> None:
    """Adds --out, the figure that a command draws."""
    parser.add_argument("--out", required=True, help="the figure to write, a .png")


def add_split(parser: argparse.ArgumentParser) -> None:
    """Adds --split and the --data_dir of the run's data set, for commands that read a run's split."""
    parser.add_argument("--split", default="test", help="the split (test)")
    add_data_dir(parser, "the directory of the run's prepared data set (default: as in its config)")


def open_run_split(args: argparse.Namespace, matcher: "Matcher") -> "Split":
    """The split that `add_split` names, of the data set of a run."""
    from jax_itm.data.prepared import open_split

    data = matcher.config.data
    return open_split(data.name, args.data_dir or data.data_dir, args.split, data.modality)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a command that several processes run together."""
    group = parser.add_argument_group(
        "several processes",
        "detected on Cloud TPU, SLURM, Open MPI and Kubernetes; elsewhere, give the first three:",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="the address of process 0")
    group.add_argument("--num_processes", type=int, metavar="N", help="the number of processes")
    group.add_argument("--process_id", type=int, metavar="I", help="the index of this process, from 0")
    group.add_argument(
        "--start_timeout",
        type=int,
        default=300,
        metavar="S",
        help="seconds to wait for the other processes (300)",
    )


def cluster_of(args: argparse.Namespace) -> "Cluster":
    """Where the other processes are, according to the options."""
    from jax_itm.distributed.cluster import Cluster

    return Cluster(args.coordinator, args.num_processes, args.process_id, args.start_timeout)
