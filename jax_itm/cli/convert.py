"""python -m jax_itm convert: turns published weights into a run."""

import argparse

from jax_itm.errors import UserError

HELP = "turn published weights into a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "weights",
        choices=("uniter", "clip", "siglip"),
        help="whose weights: UNITER's (or IAIS's), CLIP's or SigLIP's",
    )
    parser.add_argument(
        "source", help="uniter: a .pt, .bin or .safetensors file; others: a directory or a name on the hub"
    )
    parser.add_argument("workdir", help="the new run's directory")
    parser.add_argument(
        "--vocab", help="uniter: BERT's vocab.txt, with one line for each row of the word table"
    )
    parser.add_argument("--uncased", action="store_true", help="uniter: the vocabulary is uncased")
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        help="the run's config (default: one that fits the size of the weights)",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Writes published weights as a run, and prints what was converted."""
    from jax_itm import config
    from jax_itm.train.convert import convert_pair, convert_uniter

    run_config = config.read(args.config, overrides) if args.config else None
    if args.weights != "uniter":
        print(convert_pair(args.weights, args.source, args.workdir, run_config))
        return 0
    if not args.vocab:
        raise UserError("--vocab: needed for UNITER, whose weights come without their vocabulary")
    print(convert_uniter(args.source, args.workdir, args.vocab, run_config, args.uncased))
    return 0
