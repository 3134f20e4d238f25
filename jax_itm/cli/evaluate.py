"""python -m jax_itm evaluate: the retrieval metrics of a run on a split."""

import argparse
from typing import TYPE_CHECKING, Any

from jax_itm.cli.options import add_data_dir, add_processes, add_score, cluster_of
from jax_itm.cli.other_data import add_other_data, read_other_data, score_other_data
from jax_itm.errors import UserError
from jax_itm.protocols import MEASURES, NORMALISATIONS, PROTOCOLS

if TYPE_CHECKING:
    from jax_itm.inference.matcher import Matcher

HELP = "compute the retrieval metrics of a run on a split"
PER_HOST = ("data_dir", "process_id")  # options that may differ between the processes of an evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--workdir", required=True, help="the run's directory")
    parser.add_argument("--data", help="another prepared data set (default: the run's)")
    add_data_dir(parser, "where the data set was prepared (default: as in the run's config)")
    parser.add_argument(
        "--split",
        default="",
        help="the split (default: test, or the run's validation split if there is no test)",
    )
    parser.add_argument(
        "--protocol", choices=tuple(PROTOCOLS), default="full", help="which images are ranked together (full)"
    )
    parser.add_argument(
        "--mode",
        choices=("exhaustive", "rerank"),
        default="exhaustive",
        help="score all pairs, or only another run's candidates (exhaustive)",
    )
    add_score(parser)
    parser.add_argument(
        "--rerank_from", metavar="RUN", help="rerank: the run whose best candidates are re-ranked"
    )
    parser.add_argument("--top_k", type=int, default=50, help="rerank: the number of candidates (50)")
    parser.add_argument(
        "--first_weight",
        type=float,
        default=0.0,
        help="rerank: weight of the first run's score when it is added to the new score (0)",
    )
    parser.add_argument(
        "--measures",
        nargs="+",
        choices=MEASURES,
        default=[],
        metavar="NAME",
        help=f"more measures from the same scores: {', '.join(MEASURES)} (docs/evaluation.md)",
    )
    parser.add_argument(
        "--normalise",
        choices=NORMALISATIONS,
        help="rank by scores normalised over all queries; this is a protocol of its own",
    )
    parser.add_argument(
        "--isd", action="store_true", help="cross-encoders: also compute the ISD of the matched pairs"
    )
    parser.add_argument("--out", help="the result, as JSON (default: result-SPLIT.json in the workdir)")
    parser.add_argument(
        "--bag_of_words", action="store_true", help="add the baseline of a text model that ignores word order"
    )
    add_other_data(parser)
    add_processes(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Evaluates a run on a split, prints the table, and writes the JSON."""
    import jax_itm
    from jax_itm.distributed import preflight
    from jax_itm.distributed.cluster import is_main_process, start
    from jax_itm.distributed.watchdog import watchdog
    from jax_itm.evaluation.results import with_intervals, write
    from jax_itm.plots.tables import measure_tables, table

    _check(args)
    start(cluster_of(args))
    matcher = jax_itm.load(args.workdir, score=args.score)
    options = {f"--{name}": value for name, value in vars(args).items() if name not in PER_HOST}
    preflight.check(matcher.mesh, matcher.config, options, args.start_timeout)
    with watchdog(matcher.config.patience):
        result = _evaluate(args, matcher)
    if not is_main_process():
        return 0
    result = with_intervals(result)
    print(table([result]))
    print("{pairs:,} pairs scored in {seconds:.1f} s.".format(**result["cost"]))
    if args.isd:
        print("ISD: " + ", ".join(f"{name} {value:.4g}" for name, value in result["isd"].items()))
    for line in measure_tables(result):
        print(line)
    out = args.out or default_out(args.workdir, args, result)
    write(result, out)
    print(f"Written to {out}")
    return 0


def default_out(workdir: str, args: argparse.Namespace, result: dict[str, Any]) -> str:
    """Where a result is kept that no --out names: by what differs from the run's own data and protocol."""
    parts = ["result", args.data, result["protocol"]["split"]]
    parts += [args.protocol] * (args.protocol != "full") + [args.mode] * (args.mode != "exhaustive")
    parts += [args.normalise] * bool(args.normalise)
    return f"{workdir}/{'-'.join(filter(None, parts))}.json"


def _check(args: argparse.Namespace) -> None:
    from jax_itm.storage import check_writable

    if (args.mode == "rerank") != bool(args.rerank_from):
        raise UserError("--mode rerank and --rerank_from RUN: each needs the other")
    if args.mode == "rerank" and PROTOCOLS[args.protocol].folds > 1:
        raise UserError("--mode rerank: only with --protocol full or coco_5k")
    if args.measures and (args.mode == "rerank" or args.normalise):
        raise UserError("--measures: only without --mode rerank and --normalise")
    if args.normalise and args.mode == "rerank":
        raise UserError("--normalise: only without --mode rerank")
    if args.out:
        check_writable(args.out, "--out")
    if args.mode != "rerank" and args.first_weight:
        raise UserError("--first_weight: only with --mode rerank")


def _evaluate(args: argparse.Namespace, matcher: "Matcher") -> dict[str, Any]:
    """The result that the options ask of a restored run."""
    import jax_itm
    from jax_itm.data.prepared import open_split, splits_of
    from jax_itm.evaluation.bag_of_words import bag_of_words
    from jax_itm.evaluation.evaluate import evaluate, split_folds
    from jax_itm.evaluation.isd import isd
    from jax_itm.evaluation.measures import make_measures
    from jax_itm.evaluation.normalised import evaluate_normalised
    from jax_itm.evaluation.rerank import rerank

    data = matcher.config.data
    data_dir = args.data_dir or data.data_dir
    name = args.data or data.name
    has_test = "test" in splits_of(name, data_dir)
    split_name = args.split or ("test" if has_test else data.validation)
    split = open_split(name, data_dir, split_name, data.modality)
    # Before the evaluation, which may take hours: these refuse what they cannot do at once.
    split_folds(split, args.protocol)
    measures = make_measures(args.measures, split, args.protocol)
    other = read_other_data(args, matcher)
    extra = score_other_data(matcher, split, other)
    if args.isd:
        extra["isd"] = isd(matcher, split)
    if args.bag_of_words:
        training = open_split(data.name, data_dir, data.train, data.modality)
        extra["baselines"] = [bag_of_words(matcher, training, split, args.protocol)]
    if args.mode == "rerank":
        first = jax_itm.load(args.rerank_from)
        return rerank(matcher, split, first, args.top_k, args.first_weight) | extra
    if args.normalise:
        return evaluate_normalised(matcher, split, args.normalise, args.protocol) | extra
    return evaluate(matcher, split, args.protocol, measures) | extra
