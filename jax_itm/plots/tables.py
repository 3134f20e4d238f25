"""The Markdown table of retrieval results."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from statistics import fmean, stdev
from typing import Any, TypeVar

from jax_itm.protocols import MEASURES

Item = TypeVar("Item")
Result = dict[str, Any]  # as `evaluation.evaluate` returns it
Group = Sequence[Result]  # of runs that differ in their seed alone: one row

# What a result may have beside recall, by name.
BESIDE_RECALL = (*MEASURES, "judgements", "compositional", "zero_shot")
RECALLS = [(direction, name) for direction in ("i2t", "t2i") for name in ("r1", "r5", "r10")]


def table(results: Sequence[Result]) -> str:
    """Retrieval results as a Markdown table, each run's baselines below it, then the protocols.

    Runs that differ in their seed alone share a row: means, and the standard deviation of rSum. The columns
    ISDa (annotated), ISD (not annotated) and minutes (of training) are there if any result has them.
    """
    return "\n".join([*_markdown(rows(results)), "", *protocol_lines(results)])


def rows(results: Sequence[Result]) -> list[list[str]]:
    """The cells of the table, the names of its columns first."""
    groups = group_by(results, setting)
    extra = [column for column in EXTRA_COLUMNS if any(column[1](group) for group in groups)]
    recalls = [f"{direction} R@{name[1:]}" for direction, name in RECALLS]
    cells = [["run", *recalls, "rSum", *(name for name, _ in extra)]]
    for group in groups:
        cells.append(_row(title(group[0]), group) + [cell(group) for _, cell in extra])
        for baseline in baselines(group):
            cells.append(_row(f"- {baseline[0]['name']}", baseline) + [""] * len(extra))
    return cells


def protocol_lines(results: Sequence[Result]) -> list[str]:
    """How the results of the table's rows were obtained, each protocol once."""
    return list(dict.fromkeys(protocol_line(group) for group in group_by(results, setting)))


def measure_tables(result: Result) -> list[str]:
    """The lines of the Markdown tables of what a result has beside recall.

    A table is there for every value of the form {row: {column: number}} below the names of
    `BESIDE_RECALL`. Lists, such as that of the worst queries, and what lies deeper are in the JSON alone.
    """
    lines = []
    for name in (name for name in BESIDE_RECALL if name in result):
        for title, rows in _tables_below(name, result[name]):
            columns = list(dict.fromkeys(column for row in rows.values() for column in row))
            body = [[row, *(_number(values.get(key)) for key in columns)] for row, values in rows.items()]
            lines += ["", *_markdown([[title, *columns], *body])]
    return lines


def _tables_below(name: str, value: dict[str, Any]) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """The titles and rows of the tables in a part of a result."""
    rows = {key: _numbers(one) for key, one in value.items() if isinstance(one, dict)}
    if not rows:
        yield name, {"": _numbers(value)}
    elif all(rows.values()):
        yield ", ".join([name, *(f"{key} {number:g}" for key, number in _numbers(value).items())]), rows
    else:
        for key in rows:
            yield from _tables_below(f"{name}: {key}", value[key])


def _numbers(value: dict[str, Any]) -> dict[str, Any]:
    return {key: number for key, number in value.items() if isinstance(number, int | float)}


def _number(value: int | float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def group_by(items: Iterable[Item], key: Callable[[Item], Any]) -> list[list[Item]]:
    """Items of equal keys together, in the order in which the keys first came."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def setting(result: Result) -> tuple[tuple[str, Any], ...]:
    """What the runs of a row have in common: their protocol without the seed."""
    return tuple((k, v) for k, v in result["protocol"].items() if k not in ("seed", "step", "first_step"))


def title(result: Result) -> str:
    """What a row is called."""
    return f"{result['protocol']['run']} ({result['protocol']['preset']})"


def baselines(group: Group) -> list[list[Result]]:
    """The baselines of a row's results, by name."""
    return group_by((one for result in group for one in result.get("baselines", [])), itemgetter("name"))


def mean_recalls(group: Group) -> list[float]:
    """The mean of each of `RECALLS`."""
    return [fmean(result[direction][name] for result in group) for direction, name in RECALLS]


def protocol_line(group: Group) -> str:
    """How the results of a row were obtained, in one line."""
    protocols = [result["protocol"] for result in group]
    protocol = protocols[0]
    folds = "one fold" if protocol["folds"] == 1 else _folds(protocol)
    numbers = lambda key: ", ".join(str(number) for number in sorted({one[key] for one in protocols}))
    return (
        f"Protocol: {protocol['dataset']} {protocol['split']}, {protocol['images']:,} images,"
        f" {protocol['captions']:,} captions, {folds}, {protocol['score']} scores, ties"
        f" {protocol['ties']}, {protocol['precision']}, seed {numbers('seed')}, step {numbers('step')}."
    )


def _folds(protocol: dict[str, Any]) -> str:
    """The folds with their size: a mean of folds of 200 images is no COCO 1K."""
    folds = protocol["folds"]
    return f"mean of {folds} folds of {protocol['images'] // folds:,} images"


def _row(name: str, group: Group) -> list[str]:
    recalls = [f"{mean:.1f}" for mean in mean_recalls(group)]
    return [name, *recalls, _mean_and_spread([result["rsum"] for result in group], 1)]


def _isd(name: str) -> Callable[[Group], str]:
    """The cell of one form of ISD."""

    def cell(group: Group) -> str:
        values = [result["isd"][name] for result in group if name in result.get("isd", {})]
        return _mean_and_spread(values, 3) if values else ""

    return cell


def _interval(group: Group) -> str:
    """Of a single run's rSum, for other queries; runs of several seeds have their spread."""
    ends = group[0].get("intervals", {}).get("rSum")
    return f"{ends[0]:.0f} to {ends[1]:.0f}" if ends and len(group) == 1 else ""


def _minutes(group: Group) -> str:
    values = [result["minutes"] for result in group if "minutes" in result]
    return f"{fmean(values):.1f}" if values else ""


# Names and cells; a cell is "" if no result of the row has the number.
EXTRA_COLUMNS = (
    ("95 % interval", _interval),
    ("ISDa", _isd("isda")),
    ("ISD", _isd("singular")),
    ("minutes", _minutes),
)


def _mean_and_spread(values: Sequence[float], digits: int) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its columns padded to one width; all but the first are numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append(f"| {' | '.join([row[0].ljust(widths[0]), *numbers])} |")
    return lines
