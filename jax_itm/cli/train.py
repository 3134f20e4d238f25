"""python -m jax_itm train: trains a run, or resumes one."""

import argparse

from jax_itm.cli.options import add_processes, cluster_of

HELP = "train a run, or resume one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="the run's config")
    parser.add_argument("--workdir", required=True, help="the run's directory")
    parser.add_argument(
        "--accept_new_data", action="store_true", help="resume although the data have changed since the start"
    )
    add_processes(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Trains a run."""
    from jax_itm import config
    from jax_itm.train.loop import train

    run_config = config.read(args.config, overrides)
    return train(run_config, args.workdir, cluster_of(args), args.accept_new_data)
