"""What the command understands: `python -m jax_itm COMMAND`."""

import argparse
from typing import Any


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="python -m jax_itm", description="Image-text matching in JAX; each COMMAND has its own --help."
    )
    root.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = root.add_subparsers(dest="command", required=True)

    _data(commands)

    train = commands.add_parser("train", help="train a run, or go on with one")
    train.add_argument("--config", required=True, metavar="FILE[:ARG]")
    train.add_argument("--workdir", required=True)
    _processes(train)

    evaluate = commands.add_parser("evaluate", help="retrieval numbers of a run on a split")
    evaluate.add_argument("--workdir", required=True)
    evaluate.add_argument("--data", help="another prepared data set (default: the run's)")
    evaluate.add_argument("--data_dir", help="where it lies (default: the run's)")
    evaluate.add_argument("--split", default="test")
    evaluate.add_argument("--protocol", choices=("full", "folds"), default="full")
    evaluate.add_argument("--mode", choices=("exhaustive", "rerank"), default="exhaustive")
    evaluate.add_argument("--score", default="", help="cdds: maxmean, pooled or mapped (default: the run's)")
    evaluate.add_argument("--rerank_from", metavar="RUN", help="rerank: the run that ranks first")
    evaluate.add_argument("--top_k", type=int, default=50, help="rerank: of how many candidates")
    evaluate.add_argument(
        "--first_weight", type=float, default=0.0, help="rerank: of the first score beside the new one"
    )
    evaluate.add_argument("--isd", action="store_true", help="cross-encoders: ISD of the matched pairs")
    evaluate.add_argument("--out", help="also write the result here, as JSON")
    evaluate.add_argument(
        "--bag_of_words", action="store_true", help="add what an order-blind text model reaches"
    )
    _processes(evaluate)

    search = commands.add_parser("search", help="rank pictures or regions for a caption")
    search.add_argument("--workdir", required=True)
    search.add_argument("--images", required=True, help="a folder of pictures, or a .npy of regions")
    search.add_argument("caption")
    search.add_argument("--top", type=int, default=10)
    search.add_argument(
        "--first", type=int, default=0, help="score in full only so many, the best by the fast score"
    )

    _figures(commands)

    convert = commands.add_parser("convert", help="make a run of published weights")
    convert.add_argument("weights", choices=("uniter", "clip"), help="UNITER's (or IAIS's), or CLIP's")
    convert.add_argument("source", help="uniter: a .pt, .bin or .safetensors; clip: a directory or hub name")
    convert.add_argument("workdir", help="the new run's directory")
    convert.add_argument("--vocab", help="uniter: BERT's vocab.txt, a line for each row of the word table")
    convert.add_argument("--uncased", action="store_true", help="uniter: the vocabulary is an uncased one")
    convert.add_argument(
        "--config", metavar="FILE[:ARG]", help="the run's config (default: of the weights' sizes)"
    )
    return root


def _data(commands: Any) -> None:
    """Adds the commands on data sets."""
    prepare = commands.add_parser("prepare", help="build a data set from its raw files")
    prepare.add_argument("dataset", nargs="?", help="scenes, flickr8k, flickr30k, coco, folder, ..")
    prepare.add_argument("--source", help="the folder of raw files")
    prepare.add_argument("--entities", help="a folder of Flickr30k Entities: its phrases and boxes, too")
    prepare.add_argument("--data_dir", help="where prepared data sets lie (default: data)")
    prepare.add_argument("--max_pixels", type=int, help="the most that a picture file may have")
    prepare.add_argument("--beam", action="store_true", help="write it by Apache Beam (.[beam])")
    prepare.add_argument("--beam_options", default="", metavar="K=V,..", help="such as direct_num_workers=8")
    prepare.add_argument("--config", help="take dataset, source and data_dir from FILE[:ARG]")
    prepare.add_argument("--encode", action="store_true", help="also make the tokens of its frozen towers")

    describe = commands.add_parser("describe", help="the data card of a prepared data set")
    describe.add_argument("dataset")
    describe.add_argument("--data_dir", default="data", help="where prepared data sets lie (default: data)")
    describe.add_argument("--out", help="also draw a dozen of its pictures with captions, a .png")


def _processes(command: Any) -> None:
    """Adds the options of a run of several processes."""
    group = command.add_argument_group(
        "several processes",
        "found by themselves on Cloud TPU, SLURM, Open MPI, Kubernetes; elsewhere, all three:",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I", help="of this process, from 0")
    group.add_argument(
        "--start_timeout", type=int, default=300, metavar="S", help="seconds to wait for the others (300)"
    )


def _figures(commands: Any) -> None:
    """Adds the commands that draw."""
    report = commands.add_parser("report", help="tables and a figure of finished runs")
    report.add_argument("workdirs", nargs="+")
    report.add_argument("--out", required=True, help="the figure, a .png")

    attention = commands.add_parser("attention", help="draw a matched pair's attention maps, run by run")
    attention.add_argument("workdirs", nargs="+", help="cross-encoders, such as before and after alignment")
    attention.add_argument("--caption", type=int, default=0, help="its number in the split, from 0")
    attention.add_argument("--split", default="test")
    attention.add_argument("--data_dir", help="where the first run's data set lies (default: the run's)")
    attention.add_argument("--out", required=True, help="the figure, a .png")

    semantics = commands.add_parser("semantics", help="draw what CDDS's decoupling and sampling learnt")
    semantics.add_argument("workdirs", nargs="+", help="the first is drawn; the numbers are of all")
    semantics.add_argument("--split", default="test")
    semantics.add_argument("--data_dir", help="where the run's data set lies (default: the run's)")
    semantics.add_argument("--out", required=True, help="the figure, a .png")
