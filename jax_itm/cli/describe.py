"""python -m jax_itm describe: the summary of a prepared data set."""

import argparse

from jax_itm.cli.options import DATA_DIR, add_data_dir

HELP = "summarise a prepared data set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("dataset", help="the name of the data set")
    add_data_dir(parser, f"the directory of prepared data sets (default: {DATA_DIR})", DATA_DIR)
    parser.add_argument("--out", help="also draw a dozen of its images with captions, to this .png")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the summary of a prepared set, and draws some of its images."""
    from jax_itm.data.prepared import describe, open_split
    from jax_itm.plots.dataset_summary import contact_sheet, format_summary
    from jax_itm.plots.figures import check_png

    summary = describe(args.dataset, args.data_dir)
    print(format_summary(summary))
    if args.out:
        check_png(args.out)
        modality = "pixels" if "image" in summary["features"] else "regions"
        first = next(iter(summary["splits"]))
        contact_sheet(open_split(args.dataset, args.data_dir, first, modality), args.out)
        print(args.out)
    return 0
