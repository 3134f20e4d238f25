"""Two settings on the same queries: a table of differences with intervals and p."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_itm.errors import UserError
from jax_itm.evaluation.results import Stored, read
from jax_itm.metrics import Difference, differences
from jax_itm.metrics.significance import FLIPS

SAME = ("dataset", "split", "images", "captions", "folds")  # of the protocols, or queries differ


def compare(first: Sequence[str], second: Sequence[str]) -> dict[str, Difference]:
    """The differences of two settings, each of them the results of one run or of several seeds.

    Args:
        first: paths of JSON files that `evaluate` has written.
        second: the same, of the other setting. If both have the same seeds, runs of one seed are pairs.

    Returns:
        What `metrics.differences` returns.

    Raises:
        UserError: a file is missing or damaged, or results are not of the same queries.
    """
    sides = [[read(path) for path in paths] for paths in (first, second)]
    reference = sides[0][0]
    for stored in (*sides[0], *sides[1]):
        _check_same_queries(reference, stored)
    of_seed = [{stored.protocol.get("seed"): stored for stored in side} for side in sides]
    same_seeds = of_seed[0].keys() == of_seed[1].keys() and len(of_seed[0]) == len(sides[0]) == len(sides[1])
    if same_seeds:
        sides[1] = [of_seed[1][seed] for seed in of_seed[0]]
    of_first, of_second = ([stored.queries.ranks for stored in side] for side in sides)
    return differences(of_first, of_second, reference.queries.caption_image, same_seeds=same_seeds)


def _check_same_queries(one: Stored, other: Stored) -> None:
    for name in SAME:
        if one.protocol.get(name) != other.protocol.get(name):
            raise UserError(
                f"{other.path}: {name} {other.protocol.get(name)!r}, but {one.path} has"
                f" {one.protocol.get(name)!r}: not the same queries"
            )
    if not np.array_equal(one.queries.caption_image, other.queries.caption_image):
        raise UserError(f"{other.path}: captions of other images than in {one.path}: not the same queries")


def comparison_table(found: Mapping[str, Difference], first: Sequence[str], second: Sequence[str]) -> str:
    """The Markdown table of `compare`, and a line that says how it was made."""
    lines = [
        "| | first | second | difference | 95 % interval | p |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for name, row in found.items():
        low, high = row.interval
        lines.append(
            f"| {name} | {row.first:.1f} | {row.second:.1f} | {row.second - row.first:+.1f}"
            f" | {low:+.1f} to {high:+.1f} | {p_value(row.p)} |"
        )
    sides = [f"first: {', '.join(first)}", f"second: {', '.join(second)}"]
    return "\n".join([*lines, "", *sides, how(len(first), len(second))])


def how(first_runs: int, second_runs: int) -> str:
    """What the intervals and p say, for so many runs of each setting."""
    several = min(first_runs, second_runs) > 1
    seeds = (
        "and other seeds (in pairs, where both settings have the same)"
        if several
        else "not for other seeds, as a setting has a single run"
    )
    return (
        f"Intervals: for other queries (bootstrap over images with their captions) {seeds}. p: permutation"
        " test, images swapped between the settings as these runs have them."
    )


def p_value(p: float) -> str:
    """Such as 0.012, or "< 0.001"."""
    return "< 0.001" if p < max(0.001, 1.5 / FLIPS) else f"{p:.3f}"


def as_json(found: Mapping[str, Difference]) -> dict[str, Any]:
    """`compare`'s result as JSON keeps it."""
    return {name: row._asdict() | {"interval": list(row.interval)} for name, row in found.items()}
