"""python -m jax_itm semantics: draws what CDDS's decoupling and sampling have learnt."""

import argparse
from pathlib import Path
from typing import Any

from jax_itm.cli.options import add_figure, add_split, open_run_split

HELP = "draw what CDDS's decoupling and sampling have learnt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "workdirs", nargs="+", help="the runs' directories; the first is drawn, and all are in the table"
    )
    add_split(parser)
    add_figure(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Draws the first run's S, masks, columns and captions; prints the numbers of all runs, by name."""
    import jax_itm
    from jax_itm.plots.cdds import draw, semantics, table
    from jax_itm.plots.figures import check_png

    check_png(args.out)
    numbers: dict[str, list[Any]] = {}
    for workdir in args.workdirs:
        matcher = jax_itm.load(workdir)
        learnt = semantics(matcher, open_run_split(args, matcher))
        if not numbers:
            draw(learnt, Path(workdir).absolute().name, args.out)
        numbers.setdefault(matcher.config.name, []).append(learnt.numbers())
    print(f"{table(numbers)}\n\n{args.out}")
    return 0
