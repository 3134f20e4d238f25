"""python -m jax_itm prepare: builds a data set from its raw files."""

import argparse

from jax_itm.cli.options import DATA_DIR, add_data_dir, count
from jax_itm.errors import UserError

HELP = "build a data set from its raw files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("dataset", nargs="?", help="its name; without one, the command lists them all")
    parser.add_argument("--source", help="the directory of the raw files")
    parser.add_argument("--entities", help="a directory of Flickr30k Entities: adds its phrases and boxes")
    add_data_dir(parser, f"where prepared data sets are kept (default: {DATA_DIR})")
    parser.add_argument("--max_pixels", type=count, help="how many pixels a picture file may have")
    parser.add_argument("--beam", action="store_true", help="write it with Apache Beam (.[beam])")
    parser.add_argument("--beam_options", default="", metavar="K=V,..", help="such as direct_num_workers=8")
    parser.add_argument("--config", help="take dataset, source and data_dir from FILE[:ARG]")
    parser.add_argument(
        "--encode",
        action="store_true",
        help="compute the tokens of frozen encoders, as is done for a config that has them cached",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Builds a data set, named directly or by a config, and prints its summary."""
    from jax_itm import config
    from jax_itm.data.image_transforms import MAX_PIXELS
    from jax_itm.data.preparation import prepare
    from jax_itm.data.sources.registry import DATA_SETS
    from jax_itm.plots.dataset_summary import format_summary

    if args.encode and not args.config:
        raise UserError("--encode: needs --config FILE, which names the encoders")
    run_config = config.read(args.config, overrides) if args.config else None
    name = args.dataset
    source = args.source
    data_dir = args.data_dir
    max_pixels = args.max_pixels
    if run_config:
        data = run_config.data
        name = name or data.name
        source = source or data.source
        data_dir = data_dir or data.data_dir
        max_pixels = max_pixels or data.max_pixels
    if not name:
        raise UserError(f"prepare: name a data set ({', '.join(DATA_SETS)}) or a --config")
    beam = _beam_options(args.beam_options, args.beam)
    summary = prepare(
        name, data_dir or DATA_DIR, source or None, args.entities, beam, max_pixels or MAX_PIXELS
    )
    print(format_summary(summary) + ("\n  was there already" if summary["reused"] else ""))
    if run_config and (args.encode or run_config.image.cached or run_config.text.cached):
        from jax_itm.train.precompute_tokens import encode

        print("\n".join(encode(run_config)))
    return 0


def _beam_options(text: str, beam: bool) -> dict[str, str] | None:
    """The options of a Beam pipeline; None where Beam is not used."""
    pairs = [option.partition("=") for option in text.split(",") if option]
    if any(not value for _, _, value in pairs) or (pairs and not beam):
        raise UserError(f"--beam_options {text}: must be KEY=VALUE,.. with --beam")
    return {key: value for key, _, value in pairs} if beam else None
