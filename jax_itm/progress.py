"""Progress of a long command: a bar in a terminal, lines elsewhere.

Only commands show it (`with progress.shown():`). The library is silent, and training has a bar of its own.
"""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")

PATIENCE = 2.0  # seconds without a word: what is over by then says nothing
LINE_SECONDS = 10.0  # between lines where the output is no terminal

_shown: ContextVar[bool] = ContextVar("shown", default=False)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Shows, on the error stream, what is tracked inside."""
    token = _shown.set(True)
    try:
        yield
    finally:
        _shown.reset(token)


def track(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """The items; says how many of `total` are done, and how long the others will take.

    Args:
        items: of a piece of work, each asked for when the one before is done.
        total: how many there are; 0 where nobody knows.
        label: what is done, such as "encoding images".
    """
    if not _shown.get():
        yield from items
        return
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        show = None
        for done, item in enumerate(items):
            if show is None and time.monotonic() - start > PATIENCE:
                kind = _bar if sys.stderr.isatty() else _lines
                show = stack.enter_context(kind(label, total))
            if show:
                show(done, time.monotonic() - start)
            yield item


@contextlib.contextmanager
def _bar(label: str, total: int) -> Iterator:
    columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total or None)
        yield lambda done, seconds: bar.update(task, completed=done)


@contextlib.contextmanager
def _lines(label: str, total: int) -> Iterator:
    last = -LINE_SECONDS

    def show(done: int, seconds: float) -> None:
        nonlocal last
        if seconds - last >= LINE_SECONDS and done:
            last = seconds
            left = timedelta(seconds=round(seconds / done * (total - done)))
            rest = f" of {total:,}, {left} left" if total else ""
            print(f"{label}: {done:,}{rest}", file=sys.stderr, flush=True)

    yield show
