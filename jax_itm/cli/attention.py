"""python -m jax_itm attention: the attention maps of a matched pair."""

import argparse
from pathlib import Path

from jax_itm.cli.options import add_figure, add_split, open_run_split

HELP = "draw the attention maps of a matched pair for each run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "workdirs",
        nargs="+",
        help="directories of cross-encoders' runs, for example without and with alignment",
    )
    parser.add_argument("--caption", type=int, default=0, help="the caption's index in the split, from 0")
    add_split(parser)
    add_figure(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Draws the attention maps of one pair as each run has them; the split is that of the first run."""
    import jax_itm
    from jax_itm.plots.attention import attention, draw
    from jax_itm.plots.figures import check_png

    check_png(args.out)
    matchers = [jax_itm.load(workdir) for workdir in args.workdirs]
    split = open_run_split(args, matchers[0])
    names = [Path(workdir).absolute().name for workdir in args.workdirs]
    maps = [
        attention(matcher, split, args.caption, name) for matcher, name in zip(matchers, names, strict=True)
    ]
    draw(maps, split, args.caption, args.out)
    print(f"{split.captions()[args.caption]}\n{args.out}")
    return 0
