"""Tables and a figure of finished runs, from the files that they left."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from jax_itm.types import UserError

# Okabe and Ito's palette, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLUMNS = [(way, at) for way in ("i2t", "t2i") for at in ("r1", "r5", "r10")]


def table(results: Sequence[dict[str, Any]]) -> str:
    """Retrieval numbers as a Markdown table, each run's baselines below it, then the protocols.

    Runs that differ in their seed alone share a row: the mean, and the standard deviation of rSum.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for result in results:
        alone = {k: v for k, v in result["protocol"].items() if k not in ("seed", "step")}
        groups.setdefault(tuple(alone.items()), []).append(result)
    rows = [["run", *(f"{way} R@{at[1:]}" for way, at in COLUMNS), "rSum"]]
    for group in groups.values():
        protocol = group[0]["protocol"]
        rows.append(_row(f"{protocol['run']} ({protocol['preset']})", group))
        baselines: dict[str, list[dict[str, Any]]] = {}
        for baseline in (b for result in group for b in result.get("baselines", [])):
            baselines.setdefault(baseline["name"], []).append(baseline)
        rows += [_row(f"- {name}", found) for name, found in baselines.items()]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    rows.insert(1, ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]])
    lines = []
    for row in rows:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append(f"| {' | '.join([row[0].ljust(widths[0]), *numbers])} |")
    return "\n".join([*lines, "", *dict.fromkeys(map(protocol_line, groups.values()))])


def _row(name: str, group: Sequence[dict[str, Any]]) -> list[str]:
    cells = [f"{fmean(r[way][at] for r in group):.1f}" for way, at in COLUMNS]
    rsum = [r["rsum"] for r in group]
    spread = f" ± {stdev(rsum):.1f}" if len(rsum) > 1 else ""
    return [name, *cells, f"{fmean(rsum):.1f}{spread}"]


def protocol_line(group: Sequence[dict[str, Any]]) -> str:
    """How the results of a row came about, in one line."""
    protocols = [result["protocol"] for result in group]
    protocol = protocols[0]
    folds = "one fold" if protocol["folds"] == 1 else f"mean of {protocol['folds']} folds"
    numbers = lambda key: ", ".join(str(n) for n in sorted({p[key] for p in protocols}))
    return (
        f"Protocol: {protocol['dataset']} {protocol['split']}, {protocol['images']:,} images,"
        f" {protocol['captions']:,} captions, {folds}, {protocol['score']} scores, ties"
        f" {protocol['ties']}, seed {numbers('seed')}, step {numbers('step')}."
    )


def report(workdirs: Sequence[str], out: str) -> str:
    """Draws runs into one figure and returns their table.

    Args:
        workdirs: runs with `metrics.jsonl` and `result.json` (`evaluate --out`).
        out: the figure, a .png.

    Raises:
        UserError: a file is missing or is not what `train` or `evaluate` wrote.
    """
    runs = [(Path(w).name, _metrics(Path(w)), _result(Path(w))) for w in workdirs]
    draw(runs, out)
    return table([result for _, _, result in runs])


def _metrics(workdir: Path) -> list[dict[str, Any]]:
    path = workdir / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; train the run first") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not what training writes ({error})") from error


def _result(workdir: Path) -> dict[str, Any]:
    path = workdir / "result.json"
    try:
        result = json.loads(path.read_text())
        table([result])
        return result
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; python -m jax_itm evaluate --workdir {workdir} --out {path}"
        ) from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what evaluate writes ({error!r})") from error


def draw(runs: list[tuple[str, list[dict], dict]], out: str) -> None:
    """Weighted loss terms, validation rSum, and recalls beside one another."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (losses, validation, bars) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    name, lines, _ = runs[0]
    terms = sorted({k for line in lines for k in line if k.startswith("train/weighted/")})
    for colour, term in zip(COLOURS, terms, strict=False):
        _curve(losses, lines, term, label=term.removeprefix("train/weighted/"), color=colour)
    losses.set(title=f"weighted loss terms, {name}", xlabel="step", yscale="symlog")
    for colour, (name, lines, _) in zip(COLOURS, runs, strict=False):
        _curve(validation, lines, "val/rsum", label=name, color=colour, marker="o")
    validation.set(title="validation rSum", xlabel="step")
    shown = [
        (title, numbers)
        for name, _, result in runs
        for title, numbers in [
            (name, result),
            *((b["name"], b) for b in result.get("baselines", [])),
        ]
    ]
    width = 0.8 / len(shown)
    for k, (title, numbers) in enumerate(shown):
        places = [x + (k - (len(shown) - 1) / 2) * width for x in range(len(COLUMNS))]
        heights = [numbers[way][at] for way, at in COLUMNS]
        drawn = bars.bar(places, heights, width, label=title, color=COLOURS[k % len(COLOURS)])
        bars.bar_label(drawn, fmt="%.0f", fontsize=7)
    labels = [f"{way}\nR@{at[1:]}" for way, at in COLUMNS]
    bars.set_xticks(range(len(COLUMNS)), labels)
    protocol = runs[0][2]["protocol"]
    bars.set(title=f"recall on {protocol['dataset']} {protocol['split']}", ylabel="%")
    for axes in (losses, validation, bars):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(out, dpi=120)
    plt.close(figure)


def _curve(axes, lines: list[dict], key: str, **style: Any) -> None:
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    axes.plot(*zip(*points, strict=True), linewidth=1.4, markersize=4, **style) if points else None
