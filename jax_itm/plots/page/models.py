"""The parts of a page that need a run's model and data: retrieval, and what its method has learnt."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import jax_itm
from jax_itm.data.prepared import open_split
from jax_itm.data.split import Split
from jax_itm.errors import UserError
from jax_itm.inference.matcher import Matcher
from jax_itm.methods.base import HasMaps
from jax_itm.methods.dual_encoder import DualEncoder
from jax_itm.plots import attention, cdds
from jax_itm.plots.page.embedded import png_uri
from jax_itm.plots.page.retrieval import Retrieval, retrieve
from jax_itm.plots.runs import Run

Part = TypeVar("Part")


class Picture(NamedTuple):
    """A figure of many pixels: its title, its text alternative, and a data URI."""

    title: str
    alt: str
    uri: str


class Opened(NamedTuple):
    """What could be had of the runs, by name, and what could not: why, in lines."""

    retrievals: list[tuple[str, Retrieval]]
    learnt: list[Picture]
    left_out: list[str]


def open_runs(runs: Sequence[tuple[str, Run]], data_dir: str | None) -> Opened:
    """Restores runs, and scores the splits of their results; what is missing is told, not raised.

    Args:
        runs: by name.
        data_dir: where data sets were prepared; None: as the runs' configs say.
    """
    opened = Opened([], [], [])
    for name, run in runs:
        retrieved = f"{name}: queries, ranks and embeddings"
        had = _tried(retrieved, partial(_open, run, data_dir), opened)
        if had is None:
            continue
        if retrieval := _tried(retrieved, partial(retrieve, *had), opened):
            opened.retrievals.append((name, retrieval))
        if picture := _tried(f"{name}: what its method has learnt", partial(_learnt, name, *had), opened):
            opened.learnt.append(picture)
    return opened


def _tried(what: str, make: Callable[[], Part], opened: Opened) -> Part | None:
    """What `make` returns; where it raises a UserError, None, and a line that says why."""
    try:
        return make()
    except UserError as error:
        opened.left_out.append(f"{what}: {error}")
        return None


def _open(run: Run, data_dir: str | None) -> tuple[Matcher, Split]:
    matcher = jax_itm.load(str(run.workdir))
    data = matcher.config.data
    protocol = run.result["protocol"]
    place = data_dir or data.data_dir
    return matcher, open_split(protocol["dataset"], place, protocol["split"], data.modality)


def _learnt(name: str, matcher: Matcher, split: Split) -> Picture | None:
    """CDDS's S and masks, or the attention maps of the first caption; None of other methods."""
    method = matcher.method
    if isinstance(method, HasMaps):
        caption = split.captions()[0]
        maps = attention.attention(matcher, split, 0, name)
        figure = attention.figure_of([maps], split, 0)
        alt = (
            f"Attention among the words and among the regions of the pair “{caption}”; the singular alignment"
            f" is {maps.language:.3g} of the language side and {maps.vision:.3g} of the vision side"
        )
        return Picture(f"{name}: attention maps of one pair", alt, png_uri(figure))
    if isinstance(method, DualEncoder) and matcher.config.head.name == "unet":
        learnt = cdds.semantics(matcher, split)
        numbers = "; ".join(f"{key} {value:.3f}" for key, value in learnt.numbers().items())
        alt = f"S between image and text columns, what is kept of it, and captions in the plane: {numbers}"
        return Picture(f"{name}: S, its masks, and captions", alt, png_uri(cdds.figure_of(learnt, name)))
    return None
