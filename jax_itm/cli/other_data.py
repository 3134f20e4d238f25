"""Options of `evaluate` for data of other forms than image-caption pairs: ratings, choices, classes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jax_itm.errors import UserError

if TYPE_CHECKING:
    from jax_itm.data.split import Split
    from jax_itm.evaluation.compositional_sets import Item
    from jax_itm.evaluation.judgements import Judgements
    from jax_itm.evaluation.zero_shot import Classes
    from jax_itm.inference.matcher import Matcher


class OtherData(NamedTuple):
    """What the options name, read and checked; empty where they name nothing."""

    judgements: "list[Judgements]"
    compositional: "dict[str, list[Item]]"
    classes: "Classes | None"
    templates: tuple[str, ...]


def add_other_data(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    group = parser.add_argument_group("other data", "measures in addition to recall (docs/evaluation.md)")
    group.add_argument(
        "--judgements",
        nargs="+",
        default=[],
        metavar="FILE",
        help="Flickr8k's ExpertAnnotations.txt, CrowdFlowerAnnotations.txt: correlation with human ratings",
    )
    group.add_argument(
        "--compositional",
        metavar="DIR",
        help="a directory with files of SugarCrepe, Winoground or ARO, and their pictures",
    )
    group.add_argument(
        "--classes",
        metavar="DIR",
        help="a directory with one folder of pictures per class: zero-shot accuracy",
    )
    group.add_argument(
        "--templates",
        nargs="+",
        default=[],
        metavar="TEXT",
        help='texts for a class, such as "a photo of a {}." (the default)',
    )


def read_other_data(args: argparse.Namespace, matcher: "Matcher") -> OtherData:
    """Reads what the options name.

    Raises:
        UserError: a file is missing or wrong, or the run cannot score it.
    """
    from jax_itm.evaluation import compositional, compositional_sets, judgements, zero_shot

    if args.templates and not args.classes:
        raise UserError("--templates: only with --classes DIR")
    for option in ("compositional", "classes"):
        if vars(args)[option]:
            compositional.check_takes_pictures(matcher, f"--{option}")
    templates = tuple(args.templates) or zero_shot.TEMPLATES
    zero_shot.check_templates(templates)
    folder = args.compositional
    return OtherData(
        [judgements.read_judgements(Path(file)) for file in args.judgements],
        compositional_sets.read_sets(Path(folder)) if folder else {},
        zero_shot.read_classes(Path(args.classes)) if args.classes else None,
        templates,
    )


def score_other_data(matcher: "Matcher", split: "Split", other: OtherData) -> dict[str, Any]:
    """The numbers, by the names that they have in a result."""
    from jax_itm.evaluation import compositional, judgements, zero_shot

    numbers: dict[str, Any] = {}
    if other.judgements:
        numbers["judgements"] = judgements.judge_all(matcher, split, other.judgements)
    if other.compositional:
        numbers["compositional"] = compositional.score_sets(matcher, other.compositional)
    if other.classes:
        numbers["zero_shot"] = zero_shot.classify(matcher, other.classes, other.templates)
    return numbers
