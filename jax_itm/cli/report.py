"""python -m jax_itm report: prints tables of finished runs, and writes a page or a figure."""

import argparse
from pathlib import Path

from jax_itm.cli.options import add_data_dir
from jax_itm.errors import UserError

HELP = "print tables of finished runs and write a page or a figure about them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("workdirs", nargs="+", help="the runs' directories")
    parser.add_argument("--out", required=True, help="the page (.html) or figure (.png) to write")
    add_data_dir(
        parser, "for a page: the directory of the runs' prepared data (default: as in their configs)"
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the tables of the runs, and writes their page or their figure."""
    from jax_itm.storage import check_writable

    suffix = Path(args.out).suffix
    if suffix not in (".html", ".png"):
        raise UserError(f"--out {args.out}: must be a page, .html, or a figure, .png")
    check_writable(args.out, "--out")
    if suffix == ".png":
        from jax_itm.plots.report import report

        print(report(args.workdirs, args.out))
        return 0
    from jax_itm.plots.page.page import write_page

    print(write_page(args.workdirs, args.out, args.data_dir))
    print(f"\n{args.out}")
    return 0
