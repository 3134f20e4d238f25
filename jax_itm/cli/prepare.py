"""python -m jax_itm prepare: builds a data set from its raw files."""

import argparse
from typing import TYPE_CHECKING

from jax_itm.cli.options import DATA_DIR, add_data_dir, count, share
from jax_itm.errors import UserError

if TYPE_CHECKING:
    from jax_itm.data.shard_preparation import ShardOptions

HELP = "build a data set from its raw files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "dataset", nargs="?", help="the name of the data set; without a name, the command lists all of them"
    )
    parser.add_argument(
        "--source",
        help="the directory of the raw files; for huggingface also owner/set on the hub; for webdataset also"
        " a pattern such as DIR/{00000..00099}.tar",
    )
    parser.add_argument("--entities", help="a directory of Flickr30k Entities, to add its phrases and boxes")
    add_data_dir(parser, f"the directory of prepared data sets (default: {DATA_DIR})")
    parser.add_argument(
        "--max_pixels", type=count, help="the largest number of pixels that a picture may have"
    )
    parser.add_argument("--beam", action="store_true", help="write the data set with Apache Beam (.[beam])")
    parser.add_argument(
        "--beam_options", default="", metavar="K=V,..", help="for example direct_num_workers=8"
    )
    shards = parser.add_argument_group("huggingface and webdataset, which are written in shards")
    shards.add_argument(
        "--columns",
        default="",
        metavar="ROLE=NAME,..",
        help="which columns are the image, caption, split, key and name",
    )
    shards.add_argument(
        "--group",
        default="key",
        help="which rows belong to one image: those with equal key (default), equal bytes, or none",
    )
    shards.add_argument(
        "--max_bad", type=share, default=0.01, help="the largest fraction of bad rows (default: 0.01)"
    )
    shards.add_argument("--readers", type=count, default=1, help="processes (default: 1)")
    shards.add_argument(
        "--decode",
        action="store_true",
        help="also decode every picture: slower, but finds all damaged pictures",
    )
    parser.add_argument("--config", help="take dataset, source and data_dir from FILE[:ARG]")
    parser.add_argument(
        "--encode",
        action="store_true",
        help="compute the tokens of frozen encoders (done anyway for a config with cached tokens)",
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
        name,
        data_dir or DATA_DIR,
        source or None,
        args.entities,
        beam,
        max_pixels or MAX_PIXELS,
        _shard_options(args),
    )
    print(format_summary(summary) + ("\n  was there already" if summary["reused"] else ""))
    if run_config and (args.encode or run_config.image.cached or run_config.text.cached):
        from jax_itm.train.precompute_tokens import encode

        print("\n".join(encode(run_config)))
    return 0


def _shard_options(args: argparse.Namespace) -> "ShardOptions":
    from jax_itm.data.shard_preparation import ShardOptions
    from jax_itm.data.sources.columns import ROLES

    columns = tuple(option.partition("=")[::2] for option in args.columns.split(",") if option)
    for role, name in columns:
        if role not in ROLES or not name:
            raise UserError(f"--columns {args.columns}: must be ROLE=NAME,.. of the roles {', '.join(ROLES)}")
    return ShardOptions(columns, args.group, args.max_bad, args.readers, args.decode)


def _beam_options(text: str, beam: bool) -> dict[str, str] | None:
    """The options of a Beam pipeline; None where Beam is not used."""
    pairs = [option.partition("=") for option in text.split(",") if option]
    if any(not value for _, _, value in pairs) or (pairs and not beam):
        raise UserError(f"--beam_options {text}: must be KEY=VALUE,.. with --beam")
    return {key: value for key, _, value in pairs} if beam else None
