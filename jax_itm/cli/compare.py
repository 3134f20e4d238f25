"""python -m jax_itm compare: compares two settings on the same queries, with intervals and a test."""

import argparse
import json

HELP = "compare two results, or two settings of several seeds, query by query"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    text = "a JSON file written by `evaluate`; or several with different seeds, separated by commas"
    parser.add_argument("first", metavar="A.json[,A2.json..]", help=text)
    parser.add_argument("second", metavar="B.json[,B2.json..]", help="the same for the other setting")
    parser.add_argument("--out", help="also write the differences to this JSON file")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the table of differences."""
    from jax_itm.evaluation.comparison import as_json, compare, comparison_table
    from jax_itm.storage import as_path, check_writable

    if args.out:
        check_writable(args.out, "--out")
    first = [path for path in args.first.split(",") if path]
    second = [path for path in args.second.split(",") if path]
    found = compare(first, second)
    print(comparison_table(found, first, second))
    if args.out:
        as_path(args.out).write_text(json.dumps(as_json(found), indent=2) + "\n")
    return 0
