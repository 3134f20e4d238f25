"""What a study is: rows of runs, their trials and seeds."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from jax_itm.errors import UserError


class Search(NamedTuple):
    """Trials that are drawn at random in place of listed ones."""

    fields: Mapping[
        str, tuple[float, float] | list[Any]
    ]  # a range, on a log scale, or the values to choose from
    count: int  # of trials
    prune: bool = True  # whether a trial ends once it is below the median of those that ended
    never_pruned: int = 4  # trials that end before any is compared


class Row(NamedTuple):
    """One line of the table."""

    name: str
    config: str  # FILE[:ARG]; "{ROW}" in it is the chosen run of an earlier row, of the same seed
    trials: Sequence[Mapping[str, Any]] | Search = ({},)  # fields of the config: {"optimizer.lr": 1e-3}
    fields: Mapping[str, Any] = MappingProxyType({})  # of all its trials
    rerank: Sequence[str] = ()  # earlier rows; of those that ended the best, by mean, is re-ranked
    top_k: int = 10  # of its candidates
    first_weight: float = 0.0  # of its scores, which are added to this row's
    isd: bool = False  # a cross-encoder's
    shown: bool = True  # in the table, or only what another row starts from
    base: str = ""  # the earlier row that is the same without this row's terms; their difference is shown

    @property
    def count(self) -> int:
        """Its trials."""
        return self.trials.count if isinstance(self.trials, Search) else len(self.trials)


class Study(NamedTuple):
    """What a study's file describes."""

    rows: Sequence[Row]
    split: str  # on which a row's trial is chosen, and the numbers are shown
    seeds: Sequence[int] = (0, 1, 2)  # trials are run on the first
    protocol: str = "full"  # of the evaluation (protocols.py)


class Task(NamedTuple):
    """One run: a row, one of its trials, a seed."""

    row: Row
    trial: int
    seed: int

    @property
    def key(self) -> str:
        """Its folder below the study's."""
        return f"{self.row.name}/{self.trial}-{self.seed}"


def needs(row: Row) -> list[str]:
    """The rows whose runs this one starts from or re-ranks."""
    return [*re.findall(r"\{([^}]+)\}", row.config), *row.rerank]


def check(study: Study) -> None:
    """Raises UserError where a row names one that is not before it, or two have one name."""
    known: list[str] = []
    for row in study.rows:
        for name in (*needs(row), *filter(None, [row.base])):
            if name not in known:
                raise UserError(f"study: row {row.name!r} needs {name!r}, which is no earlier row")
        if row.name in known or not re.fullmatch(r"[\w.+-]+", row.name):
            raise UserError(f"study: row {row.name!r}: names are words, each of its own")
        known.append(row.name)


def parse_numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers of "0,1"; UserError where they are none, or one is there twice."""
    parts = [part for part in text.split(",") if part]
    if not all(part.isascii() and part.isdigit() for part in parts) or len({*map(int, parts)}) < len(parts):
        raise UserError(f"{option} {text}: must be different whole numbers, such as 0,1")
    return tuple(map(int, parts))
