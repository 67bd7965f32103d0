"""Show the progress of long work: as a bar on a terminal, as a line every few seconds in a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")

QUIET_SECONDS = 2.0  # work that ends sooner shows nothing
LINE_SECONDS = 5.0  # how often a log without a terminal gets a line


def track(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Yield ``items`` and show on standard error how far the work is, once it has taken longer than two seconds.

    Args:
        items: what to go through.
        label: what the work is, a few words.
        total: number of items; ``len(items)`` where it is known.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from _bar(items, label, total)
    else:
        yield from _lines(items, label, total)


def _bar(items: Iterable[Item], label: str, total: int | None) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    started, shown = time.monotonic(), False
    task = bar.add_task(label, total=total)
    try:
        for item in items:
            yield item
            bar.advance(task)
            if not shown and time.monotonic() - started > QUIET_SECONDS:
                bar.start()
                shown = True
    finally:
        if shown:
            bar.stop()


def _lines(items: Iterable[Item], label: str, total: int | None) -> Iterator[Item]:
    last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last > LINE_SECONDS:
            last = time.monotonic()
            print(f"{label}: {done}{f' of {total}' if total else ''}", file=sys.stderr, flush=True)  # noqa: T201
