"""python -m jax_itm index: builds an index of a folder of pictures, or updates one."""

import argparse
import sys

from jax_itm.cli.options import add_score

HELP = "build an index of your own pictures, or update one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--workdir", required=True, help="the run's directory")
    parser.add_argument("--images", required=True, help="a directory of pictures")
    parser.add_argument("--out", required=True, help="the directory of the index")
    parser.add_argument(
        "--captions",
        help="captions that a picture can find: a .txt with one per line, or a file for `prepare folder`",
    )
    add_score(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints what changed, and what was left out."""
    from jax_itm.search.build import make_index
    from jax_itm.storage import local_path

    folder = local_path(args.out, "--out")
    captions = local_path(args.captions, "--captions") if args.captions else None
    images = local_path(args.images, "--images")
    changes = make_index(folder, args.workdir, images, captions, args.score)
    for reason in changes.unreadable:
        print(f"left out: {reason}", file=sys.stderr)
    left_out = f", {len(changes.unreadable):,} left out" if changes.unreadable else ""
    print(
        f"{changes.added + changes.kept:,} pictures: {changes.added:,} added, {changes.removed:,} removed,"
        f" {changes.kept:,} as before{left_out}; {changes.captions:,} captions; by step {changes.step}"
    )
    if quality := changes.approximate:
        print(
            f"approximate search: a query reads {quality.probes:,} of {quality.lists:,} lists and finds"
            f" {quality.recall:.1%} of the 10 nearest pictures of {quality.queries} {quality.of}"
        )
    print(f"python -m jax_itm search --index {folder} ..")
    return 0
