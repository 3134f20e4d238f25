"""The command: python -m jax_itm COMMAND (see --help). Arguments only."""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything imports TensorFlow

from absl import logging

from jax_itm.cli.arguments import parser
from jax_itm.config.fields import DATA
from jax_itm.distributed.cluster import is_main_process, start
from jax_itm.errors import UserError


def run_prepare(args: argparse.Namespace, overrides: list[str]) -> int:
    """Builds a data set, named directly or by a config."""
    from jax_itm import config
    from jax_itm.data.prepare import prepare
    from jax_itm.data.sources.registry import NAMES
    from jax_itm.plots.data_card import card

    name, source, data_dir = args.dataset, args.source, args.data_dir
    if args.encode and not args.config:
        raise UserError("--encode: needs --config FILE, which names the towers")
    given = config.read(args.config, overrides) if args.config else None
    if given:
        data = given.data
        name, source = name or data.name, source or data.source
        data_dir = data_dir or data.data_dir
    max_pixels = args.max_pixels or (given.data if given else DATA)["max_pixels"]
    if not name:
        raise UserError(f"prepare: name a data set ({', '.join(NAMES)}) or a --config")
    options = [option.partition("=") for option in args.beam_options.split(",") if option]
    if any(not value for _, _, value in options) or (options and not args.beam):
        raise UserError(f"--beam_options {args.beam_options}: must be KEY=VALUE,.. beside --beam")
    beam = {key: value for key, _, value in options} if args.beam else None
    found = prepare(name, data_dir or "data", source or None, args.entities, beam, max_pixels)
    print(card(found) + ("\n  was there already" if found["reused"] else ""))
    if args.encode:
        from jax_itm.train.precompute_tokens import encode

        print("\n".join(encode(given)))
    return 0


def run_describe(args: argparse.Namespace, _) -> int:
    """Prints the data card of a prepared set, and draws its pictures."""
    from jax_itm.data.prepared import describe, open_split
    from jax_itm.plots.data_card import card, contact_sheet
    from jax_itm.plots.runs import check_png

    found = describe(args.dataset, args.data_dir)
    print(card(found))
    if args.out:
        check_png(args.out)
        view = "pixels" if "image" in found["holds"] else "regions"
        contact_sheet(open_split(args.dataset, args.data_dir, next(iter(found["splits"])), view), args.out)
        print(args.out)
    return 0


def run_train(args: argparse.Namespace, overrides: list[str]) -> int:
    """Trains a run."""
    from jax_itm import config
    from jax_itm.train.loop import train

    return train(config.read(args.config, overrides), args.workdir, _cluster(args))


def _cluster(args: argparse.Namespace) -> Any:
    """Where the other processes are, by the options."""
    from jax_itm.distributed.cluster import Cluster

    return Cluster(*(getattr(args, field) for field in Cluster._fields))


def run_evaluate(args: argparse.Namespace, _) -> int:
    """Evaluates a run on a split, prints the table, writes the JSON."""
    import jax_itm
    from jax_itm.distributed import preflight
    from jax_itm.distributed.watchdog import watchdog
    from jax_itm.plots.runs import table
    from jax_itm.storage import as_path

    if (args.mode == "rerank") != bool(args.rerank_from):
        raise UserError("--mode rerank and --rerank_from RUN: each needs the other")
    if args.mode == "rerank" and args.protocol != "full":
        raise UserError("--mode rerank: only with --protocol full")
    if args.mode != "rerank" and args.first_weight:
        raise UserError("--first_weight: only with --mode rerank")
    start(_cluster(args))
    matcher = jax_itm.load(args.workdir, score=args.score)
    given = {f"--{k}": v for k, v in vars(args).items() if k not in ("data_dir", "process_id")}
    preflight.check(matcher.mesh, matcher.config, given, args.start_timeout)
    with watchdog(matcher.config.patience):
        result = _evaluated(args, matcher)
    if not is_main_process():
        return 0
    print(table([result]))
    print("{pairs:,} pairs scored in {seconds:.1f} s.".format(**result["cost"]))
    if args.isd:
        print("ISD: " + ", ".join(f"{name} {value:.4g}" for name, value in result["isd"].items()))
    if args.out:
        out = as_path(args.out)
        partial = out.with_name(out.name + ".partial")
        partial.write_text(json.dumps(result, indent=2) + "\n")
        partial.replace(out)
    return 0


def _evaluated(args: argparse.Namespace, matcher) -> dict[str, Any]:
    """What `evaluate` was asked for, of a run that has been restored."""
    import jax_itm
    from jax_itm.data.prepared import open_split
    from jax_itm.evaluation.bag_of_words import bag_of_words
    from jax_itm.evaluation.evaluate import evaluate
    from jax_itm.evaluation.isd import isd
    from jax_itm.evaluation.rerank import rerank

    data = matcher.config.data
    name, data_dir = args.data or data.name, args.data_dir or data.data_dir
    split = open_split(name, data_dir, args.split, data.view)
    extra = {}  # before the evaluation, which may take hours: what they refuse is said at once
    if args.isd:
        extra["isd"] = isd(matcher, split)
    if args.bag_of_words:
        training = open_split(data.name, args.data_dir or data.data_dir, data.train, data.view)
        extra["baselines"] = [bag_of_words(matcher, training, split, args.protocol)]
    if args.mode == "rerank":
        source = jax_itm.load(args.rerank_from)
        return rerank(matcher, split, source, args.top_k, args.first_weight) | extra
    return evaluate(matcher, split, args.protocol) | extra


def run_search(args: argparse.Namespace, _) -> int:
    """Prints the images that match a caption best."""
    import jax_itm
    from jax_itm.data.images import PICTURES
    from jax_itm.data.sources.precomp import as_boxes, read_array
    from jax_itm.data.sources.raw import caption

    where, boxes, text = Path(args.images), None, caption(args.caption, "caption")
    if where.suffix == ".npy":
        images = read_array(where)
        if images.ndim != 3:
            raise UserError(f"--images {where}: shape {images.shape}, must be (images, regions, features)")
        names = [f"{where.name}[{k}]" for k in range(len(images))]
        if (beside := where.with_name("boxes.npy")).exists():
            boxes = [as_boxes(read_array(beside), str(beside))] * len(images)
    elif where.is_dir():
        images = sorted(p for p in where.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
        names = [str(p) for p in images]
    else:
        raise UserError(f"--images {where}: neither a folder of pictures nor a .npy of regions")
    if not len(images):
        raise UserError(f"--images {where}: no pictures there ({', '.join(sorted(PICTURES))})")
    matcher = jax_itm.load(args.workdir)
    gallery = matcher.encode_images(images, boxes)
    order, scores = matcher.rank(matcher.encode_texts([text]), gallery, args.top, args.first)
    for index, score in zip(order[0], scores[0], strict=True):
        print(f"{score:7.4f}  {names[index]}")
    return 0


def run_report(args: argparse.Namespace, _) -> int:
    """Prints the table of runs and draws their figure."""
    from jax_itm.plots.runs import report

    print(report(args.workdirs, args.out))
    return 0


def run_attention(args: argparse.Namespace, _) -> int:
    """Draws the attention maps of one pair, as each run has them."""
    import jax_itm
    from jax_itm.data.prepared import open_split
    from jax_itm.plots.attention import attention, draw
    from jax_itm.plots.runs import check_png

    check_png(args.out)
    matchers = [jax_itm.load(workdir) for workdir in args.workdirs]
    data = matchers[0].config.data
    split = open_split(data.name, args.data_dir or data.data_dir, args.split, data.view)
    names = [Path(workdir).absolute().name for workdir in args.workdirs]
    found = [attention(m, split, args.caption, name) for m, name in zip(matchers, names, strict=True)]
    draw(found, split, args.caption, args.out)
    print(f"{split.captions()[args.caption]}\n{args.out}")
    return 0


def run_semantics(args: argparse.Namespace, _) -> int:
    """Draws the first run's S and masks, columns and captions; prints the numbers of all, by name."""
    import jax_itm
    from jax_itm.data.prepared import open_split
    from jax_itm.plots.cdds import draw, semantics, table
    from jax_itm.plots.runs import check_png

    check_png(args.out)
    numbers = {}
    for k, workdir in enumerate(args.workdirs):
        matcher = jax_itm.load(workdir)
        data = matcher.config.data
        split = open_split(data.name, args.data_dir or data.data_dir, args.split, data.view)
        found = semantics(matcher, split)
        numbers.setdefault(matcher.config.name, []).append(found.numbers())
        if k == 0:
            draw(found, Path(workdir).absolute().name, args.out)
    print(f"{table(numbers)}\n\n{args.out}")
    return 0


def run_convert(args: argparse.Namespace, overrides: list[str]) -> int:
    """Writes published weights as a run, and prints what was converted."""
    from jax_itm import config
    from jax_itm.train.convert import convert_clip, convert_uniter

    given = config.read(args.config, overrides) if args.config else None
    if args.weights == "clip":
        print(convert_clip(args.source, args.workdir, given))
    elif not args.vocab:
        raise UserError("--vocab: needed for UNITER, whose weights come without their vocabulary")
    else:
        print(convert_uniter(args.source, args.workdir, args.vocab, given, args.uncased))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs the command; a UserError becomes one line and its exit status."""
    root = parser()
    args, rest = root.parse_known_args(argv)
    unknown = [a for a in rest if not a.startswith("--config.") or not getattr(args, "config", None)]
    if unknown:
        root.error(f"{unknown[0]}: not an option of {args.command}")
    # Pillow's, of pictures that are refused just after it.
    warnings.filterwarnings("ignore", "Image size .* exceeds limit", RuntimeWarning)
    logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant here, such as reading only
    try:
        return globals()[f"run_{args.command}"](args, rest)
    except (UserError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        if args.debug:
            raise
        print(f"jax_itm: {error}", file=sys.stderr)
        return error.status if isinstance(error, UserError) else 2


if __name__ == "__main__":
    sys.exit(main())
