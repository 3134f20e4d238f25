"""python -m jax_itm report: tables and a figure of finished runs."""

import argparse

from jax_itm.cli.options import add_figure

HELP = "print tables and draw a figure of finished runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("workdirs", nargs="+", help="the runs' directories")
    add_figure(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the tables of the runs, and draws their figure."""
    from jax_itm.plots.report import report

    print(report(args.workdirs, args.out))
    return 0
