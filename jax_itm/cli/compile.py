"""python -m jax_itm compile: what a run needs on TPUs and GPUs that this machine lacks."""

import argparse

HELP = "compile a run for TPUs or GPUs that this machine lacks: memory, estimated time, collectives"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="the run's config")
    parser.add_argument(
        "--topology",
        default="v5e:4x8",
        help="generation and shape of a TPU slice: v5e:4x8, v5p:2x2x4, v6e:4x4; or GPUs: h100:8, h100:2x8",
    )
    parser.add_argument(
        "--region_dim", type=int, default=2048, help="features per region, for a run on regions (2048)"
    )
    parser.add_argument(
        "--vocab",
        type=int,
        default=10_000,
        help="vocabulary size of a tokenizer fitted on the captions (10000)",
    )
    parser.add_argument(
        "--epoch_examples", type=int, default=145_000, help="captions per epoch (default: Flickr30k's)"
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the report; nothing is trained or written."""
    import os

    os.environ["JAX_PLATFORMS"] = "cpu"  # the compiler alone: a TPU or GPU that is here stays free
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # it cannot take programs for other machines
    from jax_itm import config as config_lib
    from jax_itm.aot.report import report
    from jax_itm.config import Facts
    from jax_itm.distributed.mesh import check_batch, mesh_over
    from jax_itm.distributed.topology import offline_devices
    from jax_itm.platforms import CHIPS
    from jax_itm.train.init_from import read_source

    config = config_lib.read(args.config, overrides)
    mesh = mesh_over(offline_devices(args.topology))
    check_batch(config.batch_size, mesh.size, "config.batch_size", config.micro_batches)
    facts = Facts(region_dim=args.region_dim, vocab=args.vocab)
    config.start = ""  # other values in the same shapes
    source = read_source(config, facts)  # the architectures of pretrained encoders
    facts = source.facts if source else facts
    if source is not None and source.tokenizer is None:
        facts = facts._replace(vocab=args.vocab)
    print(f"{args.config} on {args.topology}: ", end="")
    for line in report(config, facts, mesh, CHIPS[args.topology.split(":")[0]], args.epoch_examples):
        print(line, flush=True)
    return 0
