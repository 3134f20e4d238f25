"""python -m jax_itm study: runs rows of configs, each with its trials and seeds, into one table."""

import argparse
from pathlib import Path

from jax_itm.cli.options import count

HELP = "run a study: rows of runs, each with its trials and seeds, into one table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("file", metavar="FILE[:ARG]", help="the study's file, such as configs/study_f8k.py")
    parser.add_argument("--out", help="its directory (default: runs/ and the file's name)")
    parser.add_argument(
        "--jobs", type=count, default=1, help="runs at once, each on its share of the cores (1)"
    )
    parser.add_argument(
        "--gpus", default="", help="GPUs that the runs share out, such as 0,1 (default: all see all)"
    )
    parser.add_argument("--rows", default="", help="only these rows, in this order (default: all)")
    parser.add_argument("--seeds", default="", help="these seeds, such as 0,1 (default: the study's)")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs what is left of a study, and prints its tables."""
    from jax_itm.study import parse_numbers, run_study

    file = args.file.partition(":")[0]
    out = args.out or f"runs/{Path(file).stem}"
    rows = [name for name in args.rows.split(",") if name]
    seeds, gpus = parse_numbers("--seeds", args.seeds), parse_numbers("--gpus", args.gpus)
    print(run_study(args.file, out, args.jobs, rows, seeds, gpus))
    return 0
