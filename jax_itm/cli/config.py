"""python -m jax_itm config: every field of a run, its value, and where the value comes from."""

import argparse

HELP = "print every field of a config, its value, and where the value comes from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "config", metavar="FILE[:ARG]", help="a config file; --config.x=y options change its fields"
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints a line for each field: its name, its value, the source of the value, and what the field is."""
    from jax_itm import config

    rows = [
        (f"config.{row.name}", repr(row.value), row.source, row.help)
        for row in config.explain(args.config, overrides)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip())
    return 0
