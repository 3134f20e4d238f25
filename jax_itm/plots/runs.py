"""Tables and a figure of finished runs, from the files that they left."""

import json
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple, TypeVar

from etils import epath

from jax_itm.errors import UserError
from jax_itm.storage import as_path

# Okabe and Ito's palette, told apart with any colour vision; grey is for baselines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":")
GREYS = ("#9A9A9A", "#CDCDCD")
ISD = ("val/isd/annotated", "val/isd/singular")  # the first that a run has is drawn
COLUMNS = [(way, at) for way in ("i2t", "t2i") for at in ("r1", "r5", "r10")]
Item = TypeVar("Item")


class Run(NamedTuple):
    """What a run left in its folder."""

    workdir: epath.Path
    config: dict[str, Any]  # without the seed, and the run that it started from: each seed has its own
    lines: list[dict[str, Any]]  # of metrics.jsonl
    result: dict[str, Any]


def table(results: Sequence[dict[str, Any]]) -> str:
    """Retrieval numbers as a Markdown table, each run's baselines below it, then the protocols.

    Runs that differ in their seed alone share a row: the mean, and the standard deviation of rSum. ISD
    is the annotated one where a result has it, else the singular one; `minutes` are those of training.
    """
    groups = _grouped(results, _setting)
    held = lambda key: any(key in result for result in results)
    extra = [(name, cell) for name, key, cell in EXTRA if held(key)]
    rows = [["run", *(f"{way} R@{at[1:]}" for way, at in COLUMNS), "rSum", *(name for name, _ in extra)]]
    for group in groups:
        rows.append(_row(_title(group[0]), group) + [cell(group) for _, cell in extra])
        rows += [_row(f"- {found[0]['name']}", found) + [""] * len(extra) for found in _baselines(group)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    rows.insert(1, ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]])
    lines = []
    for row in rows:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append(f"| {' | '.join([row[0].ljust(widths[0]), *numbers])} |")
    return "\n".join([*lines, "", *dict.fromkeys(map(protocol_line, groups))])


def _grouped(items: Iterable[Item], key: Callable[[Item], Any]) -> list[list[Item]]:
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _setting(result: dict[str, Any]) -> tuple:
    return tuple((k, v) for k, v in result["protocol"].items() if k not in ("seed", "step", "first_step"))


def _title(result: dict[str, Any]) -> str:
    return f"{result['protocol']['run']} ({result['protocol']['preset']})"


def _baselines(group: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return _grouped((b for result in group for b in result.get("baselines", [])), itemgetter("name"))


def _means(group: Sequence[dict[str, Any]]) -> list[float]:
    return [fmean(r[way][at] for r in group) for way, at in COLUMNS]


def _row(name: str, group: Sequence[dict[str, Any]]) -> list[str]:
    rsum = [r["rsum"] for r in group]
    spread = f" ± {stdev(rsum):.1f}" if len(rsum) > 1 else ""
    return [name, *(f"{mean:.1f}" for mean in _means(group)), f"{fmean(rsum):.1f}{spread}"]


def _isd(group: Sequence[dict[str, Any]]) -> str:
    values = [found.get("annotated", found["singular"]) for r in group if (found := r.get("isd"))]
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}" if values else ""


def _minutes(group: Sequence[dict[str, Any]]) -> str:
    values = [r["minutes"] for r in group if "minutes" in r]
    return f"{fmean(values):.1f}" if values else ""


EXTRA = [("ISD", "isd", _isd), ("minutes", "minutes", _minutes)]


def minutes(lines: Iterable[dict[str, Any]]) -> float:
    """Of training steps alone, without validations, from the lines of `metrics.jsonl`."""
    total, before = 0.0, 0
    for line in lines:
        if seconds := line.get("train/step_seconds"):
            total, before = total + seconds * (line["step"] - before), line["step"]
    return total / 60


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
        workdirs: runs with `config.json`, `metrics.jsonl` and `result.json` (`evaluate --out`).
        out: the figure, a .png.

    Raises:
        UserError: a file is missing or is not what `train` or `evaluate` wrote.
    """
    check_png(out)
    runs = [_run(as_path(workdir)) for workdir in workdirs]
    for same in _grouped(runs, lambda run: run.result["protocol"]["run"]):
        if any(run.config != same[0].config for run in same):  # not seeds of one run
            for run in same:
                run.result["protocol"]["run"] += f", {run.workdir}"
    draw(runs, out)
    return table([run.result for run in runs])


def _run(workdir: epath.Path) -> Run:
    evaluate = f"python -m jax_itm evaluate --workdir {workdir} --out {workdir / 'result.json'}"
    config = _read(workdir / "config.json", _config, "train the run first")
    lines = _read(workdir / "metrics.jsonl", _lines, "train the run first")
    result = _read(workdir / "result.json", _result, evaluate) | {"minutes": minutes(lines)}
    return Run(workdir, config, lines, result)


def _read(path: epath.Path, parse: Callable[[str], Any], advice: str) -> Any:
    try:
        return parse(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {advice}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # ValueError: JSON and UTF-8 too
        raise UserError(f"{path}: not what jax_itm writes ({error!r}); {advice}") from error


def _config(text: str) -> dict[str, Any]:
    return {k: v for k, v in json.loads(text).items() if k not in ("seed", "start")}


def _lines(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [dict(line) | {"step": int(line["step"])} for line in lines]


def _result(text: str) -> dict[str, Any]:
    result = json.loads(text)
    table([result])
    return result


def draw(runs: Sequence[Run], out: str) -> None:
    """Weighted loss terms of the first run, validation rSum, and recalls beside one another.

    A row of the table is one colour: a curve for each seed, and bars of the means. Runs that logged
    ISD have it drawn against rSum, a point a validation, the later the larger.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    isd = next((key for key in ISD for run in runs if any(key in line for line in run.lines)), None)
    panels = 4 if isd else 3
    figure, axes = plt.subplots(1, panels, figsize=(1 + 4 * panels, 4.2), layout="constrained")
    losses, validation, recalls = *axes[:2], axes[-1]
    lines = runs[0].lines
    terms = sorted({k for line in lines for k in line if k.startswith("train/weighted/")})
    for k, term in enumerate(terms):
        _curve(losses, lines, term, label=term.removeprefix("train/weighted/"), **_style(k))
    losses.set(title=f"weighted loss terms, {runs[0].workdir.resolve().name}", xlabel="step", yscale="symlog")
    if terms:
        losses.legend(frameon=False, fontsize=8)
    bars = []  # (label, the mean of each column, style)
    for k, group in enumerate(_grouped(runs, lambda run: _setting(run.result))):
        for run in group:
            _curve(validation, run.lines, "val/rsum", marker="o", **_style(k))
            if isd:
                _against(axes[2], run.lines, isd, **_style(k))
        results = [run.result for run in group]
        hatch = {"-": "", "--": "//", ":": ".."}[_style(k)["linestyle"]]
        bars.append((_title(results[0]), _means(results), {"color": _style(k)["color"], "hatch": hatch}))
        for j, found in enumerate(_baselines(results)):
            name = found[0]["name"] if k == 0 else "_"  # once in the legend, which leaves out "_"
            bars.append((name, _means(found), {"color": GREYS[j % len(GREYS)]}))
    validation.set(title="validation rSum", xlabel="step")
    if isd:
        axes[2].set(title="ISD against rSum, validation", xlabel=isd.removeprefix("val/isd/"), ylabel="rSum")
    protocol = runs[0].result["protocol"]
    recalls.set(title=f"recall on {protocol['dataset']} {protocol['split']}", ylabel="%")
    _bars(recalls, bars)
    handles, labels = recalls.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=4, frameon=False, fontsize=8)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    save_figure(figure, out)


def check_png(out: str) -> None:
    """Raises UserError where a figure's file is no .png."""
    if Path(out).suffix != ".png":
        raise UserError(f"--out {out}: the figure is a .png")


def save_figure(figure: Any, out: str) -> None:
    """Writes a figure of pyplot, all of it or nothing, and forgets it."""
    from matplotlib import pyplot as plt

    partial = Path(f"{out}.partial")
    figure.savefig(partial, dpi=120, format="png")
    partial.replace(out)
    plt.close(figure)


def _style(k: int) -> dict[str, str]:
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[k // len(COLOURS) % len(DASHES)]}


def _curve(axes, lines: list[dict], key: str, **style: Any) -> None:
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    axes.plot(*zip(*points, strict=True), linewidth=1.4, markersize=4, **style) if points else None


def _against(axes, lines: list[dict], key: str, **style: Any) -> None:
    points = [(line[key], line["val/rsum"]) for line in lines if key in line]
    axes.plot(*zip(*points, strict=True), linewidth=0.8, **style) if points else None
    for k, point in enumerate(points):
        axes.plot(*point, "o", color=style["color"], markersize=3 + 5 * k / len(points))


def _bars(axes, bars: list[tuple[str, list[float], dict]]) -> None:
    width = 0.8 / len(bars)
    for k, (label, heights, style) in enumerate(bars):
        places = [x + (k - (len(bars) - 1) / 2) * width for x in range(len(COLUMNS))]
        drawn = axes.bar(places, heights, width, label=label, edgecolor="white", linewidth=0.3, **style)
        if len(bars) <= 3:  # more have no room
            axes.bar_label(drawn, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(COLUMNS)), [f"{way}\nR@{at[1:]}" for way, at in COLUMNS])
