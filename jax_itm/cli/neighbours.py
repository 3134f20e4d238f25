"""python -m jax_itm neighbours: finds the nearest items of a training split, for a matcher's pools."""

import argparse
from pathlib import Path

from jax_itm.cli.options import add_data_dir, count

HELP = "find the nearest neighbours in a run's training split, for training a matcher"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--workdir", required=True, help="the directory of a dual encoder's run")
    parser.add_argument("--out", help="the file to write (default: neighbours.npz in the workdir)")
    parser.add_argument("--top", type=count, default=50, help="neighbours of each image and caption (50)")
    add_data_dir(parser, "where the data set was prepared (default: as in the run's config)")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Scores the training split with itself and writes the nearest."""
    import jax_itm
    from jax_itm.data.pools import write_neighbours
    from jax_itm.data.prepared import open_split
    from jax_itm.evaluation.neighbours import neighbours
    from jax_itm.storage import check_writable

    out = args.out or f"{args.workdir}/neighbours.npz"
    check_writable(out, "--out")
    matcher = jax_itm.load(args.workdir)
    data = matcher.config.data
    split = open_split(data.name, args.data_dir or data.data_dir, data.train, data.modality)
    write_neighbours(neighbours(matcher, split, args.top), split.identity(), Path(out))
    print(f"{out}: the {args.top} nearest of {split.identity()}")
    return 0
