"""python -m jax_itm study: trains several configs, with trials and seeds, into one table of results."""

import argparse
from pathlib import Path

from jax_itm.cli.options import count

HELP = "train several configs, each with trials and seeds, and put the results in one table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("file", metavar="FILE[:ARG]", help="the study's file, such as configs/study_f8k.py")
    parser.add_argument("--out", help="the study's directory (default: runs/ and the file's name)")
    parser.add_argument(
        "--jobs",
        type=count,
        default=1,
        help="how many runs to train at once, each on its share of the cores (1)",
    )
    parser.add_argument(
        "--gpus", default="", help="GPUs that the runs share, such as 0,1 (default: every run sees all)"
    )
    parser.add_argument(
        "--rows", default="", help="train only these rows, in this order, separated by commas (default: all)"
    )
    parser.add_argument("--seeds", default="", help="train these seeds, such as 0,1 (default: the study's)")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs what is left of a study, and prints its tables."""
    from jax_itm.study import parse_numbers, run_study

    file = args.file.partition(":")[0]
    out = args.out or f"runs/{Path(file).stem}"
    rows = [name for name in args.rows.split(",") if name]
    seeds, gpus = parse_numbers("--seeds", args.seeds), parse_numbers("--gpus", args.gpus)
    print(run_study(args.file, out, args.jobs, rows, seeds, gpus))
    return 0
