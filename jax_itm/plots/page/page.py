"""The report of runs as one page of HTML: numbers, curves, ranks, queries with their pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jax_itm.errors import UserError
from jax_itm.plots import tables
from jax_itm.plots.page import curves, models, queries, retrieval_panels
from jax_itm.plots.page.curves import Panel
from jax_itm.plots.report import name_apart
from jax_itm.plots.runs import Run, read_run
from jax_itm.storage import replacing
from jax_itm.version import __version__


class Section(NamedTuple):
    """Drawings under one heading.

    Attributes:
        anchor: its id in the page.
        heading: of it.
        note: a line below the heading.
        panels: the drawings.
        pictures: figures of many pixels.
    """

    anchor: str
    heading: str
    note: str
    panels: Sequence[Panel]
    pictures: Sequence[models.Picture] = ()


def write_page(workdirs: Sequence[str], out: str, data_dir: str | None = None) -> str:
    """Writes a page about runs and returns their table.

    Args:
        workdirs: runs with what `train` and `evaluate` wrote.
        out: the page, a .html.
        data_dir: where the runs' data sets were prepared; None: as their configs say. Without the data or the
            checkpoints the page leaves out what needs them, and says so.

    Raises:
        UserError: a file is missing, or is not what `train` or `evaluate` wrote, or jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise UserError(f"--out {out}: needs the package jinja2: pip install -e .[report]") from error
    runs = [read_run(workdir) for workdir in workdirs]
    name_apart(runs)
    named = list(zip(run_names(runs), runs, strict=True))
    opened = models.open_runs(named, data_dir)
    shared = same_split(opened.retrievals)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    results = [run.result for run in runs]
    text = environment.get_template("page.html.jinja").render(
        names=[name for name, _ in named],
        table=tables.rows(results),
        protocols=tables.protocol_lines(results),
        sections=sections(named, opened),
        blocks=queries.query_blocks(shared) if shared else [],
        queries_note=_queries_note(shared, opened.retrievals),
        left_out=opened.left_out,
        version=__version__,
    )
    with replacing(Path(out)) as partial:
        partial.write_text(text, encoding="utf-8")
    return tables.table(results)


def run_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its row's title, with the seed where a row has several, and no name twice."""
    titles = [tables.title(run.result) for run in runs]
    seeds = [f", seed {run.result['protocol']['seed']}" for run in runs]
    names = [title + seed * (titles.count(title) > 1) for title, seed in zip(titles, seeds, strict=True)]
    return [
        name if names.count(name) == 1 else f"{name}, {run.workdir}"
        for name, run in zip(names, runs, strict=True)
    ]


def sections(runs: Sequence[tuple[str, Run]], opened: models.Opened) -> list[Section]:
    """The sections with drawings, those that have any."""
    gaps = [retrieval_panels.gap_panel(name, one) for name, one in opened.retrievals]
    ranks = (
        retrieval_panels.rank_panels(opened.retrievals, [name for name, _ in runs])
        if opened.retrievals
        else []
    )
    scored = ", ".join(
        f"{name}: the first {len(one.split):,} images of {one.split.name} {one.split.split}"
        for name, one in opened.retrievals
    )
    all_sections = [
        Section("recall", "Recall", "", [retrieval_panels.recall_panel([run for _, run in runs])]),
        Section("losses", "Loss terms", "Every term has an axis of its own.", curves.loss_panels(runs)),
        Section("training", "Training", "", curves.training_panels(runs)),
        Section("ranks", "Ranks", f"Of {scored}.", ranks),
        Section(
            "gap",
            "Modality gap",
            "Images and captions in one plane; a line joins a pair.",
            [gap for gap in gaps if gap is not None],
        ),
        Section("learnt", "What the method has learnt", "", [], opened.learnt),
    ]
    return [section for section in all_sections if section.panels or section.pictures]


def same_split(retrievals: Sequence[tuple[str, models.Retrieval]]) -> list[tuple[str, models.Retrieval]]:
    """The runs whose queries can be compared with those of the first: of the same images."""
    place = lambda retrieval: (retrieval.split.path, retrieval.split.split, len(retrieval.split))
    return [one for one in retrievals if place(one[1]) == place(retrievals[0][1])]


def _queries_note(
    shared: Sequence[tuple[str, models.Retrieval]], opened: Sequence[tuple[str, models.Retrieval]]
) -> str:
    if not shared:
        return ""
    first, retrieval = shared[0]
    split = retrieval.split
    others = [name for name, _ in opened if name not in [kept for kept, _ in shared]]
    missing = f" Not of the same images, and so not here: {', '.join(others)}." if others else ""
    pictures = "" if "image" in split.features else " The data set has no pictures."
    return (
        f"Among the first {len(split):,} images of {split.name} {split.split}. The queries are those of"
        f" {first}; typical are those nearest to the median rank.{pictures}{missing}"
    )
