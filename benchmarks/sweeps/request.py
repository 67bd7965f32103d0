"""The request of one call of the command line, and its outcome."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.records.manifest import PlannedCell
    from benchmarks.records.schema import Record


@dataclass(frozen=True)
class Request:
    """The words of one call: overrides and flags.

    Attributes:
        words: overrides, as they are typed.
        multirun: sweep over all combinations of their values.
        dry_run: list the cells and run nothing.
        flags: options of Hydra's own, with their values, such as ``["--cfg", "job"]``.
        cells: cells to use instead of what the words expand to; the words are common to all of them.
        name: the name of the sweep; if None, the experiment's, or one derived from the cells.
        concluded: whether to print boards and what went wrong at the end.
        renewed: by key, the stamps of records that do not count as results and are replaced by new ones.
    """

    words: list[str]
    multirun: bool = False
    dry_run: bool = False
    flags: list[str] = field(default_factory=list)
    cells: Sequence[PlannedCell] | None = None
    name: str | None = None
    concluded: bool = True
    renewed: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """The outcome of a call.

    Attributes:
        code: the exit code; 0 if every cell has a result, 1 if some failed or have no record.
        cells: the cells that were asked for, in order.
        records: the records of those cells that have one, in the same order.
        faults: what left no record, in words.
    """

    code: int = 0
    cells: list[PlannedCell] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass
class Call:
    """A call that is being carried out in this process.

    Attributes:
        launched: whether anything began to run; an error before that is one in the command.
        error: why its only cell was refused.
        at_end: gives the outcome of a sweep whose cells a third-party sweeper has chosen.
        full_error: Hydra's switch HYDRA_FULL_ERROR as the user has set it.
    """

    request: Request
    outcome: Outcome = field(default_factory=Outcome)
    launched: bool = False
    error: Exception | None = None
    at_end: Callable[[], None] | None = None
    full_error: str | None = None


class CellFailed(Exception):
    """A job's cell failed, and its record says why; Hydra's callbacks and sweepers see a job that failed."""


class CellRefused(CellFailed):
    """A job's cell has no record: something is wrong with the command, or with a part of the user's own."""


RAISING = "HYDRA_FULL_ERROR"
_CURRENT: ContextVar[Call | None] = ContextVar("call", default=None)


def current_call() -> Call | None:
    """The call that this process carries out; None in a worker, and in a third-party application."""
    return _CURRENT.get()


@contextmanager
def carrying_out(request: Request) -> Iterator[Call]:
    """Makes ``request`` the call that Hydra's plug-ins and jobs in this process belong to."""
    call = Call(request)
    token = _CURRENT.set(call)
    try:
        yield call
    finally:
        _CURRENT.reset(token)


@contextmanager
def errors_as_the_user_wants() -> Iterator[None]:
    """Give Hydra's switch HYDRA_FULL_ERROR the user's value, for this process and its children."""
    call, before = current_call(), os.environ.get(RAISING)
    if call is not None:
        _set(RAISING, call.full_error)
    try:
        yield
    finally:
        if call is not None:
            _set(RAISING, before)


@contextmanager
def hydra_raises(call: Call) -> Iterator[None]:
    """Make Hydra raise its errors, so that they can be explained, instead of printing them and exiting with 1."""
    call.full_error = os.environ.get(RAISING)
    os.environ[RAISING] = "1"
    try:
        yield
    finally:
        _set(RAISING, call.full_error)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
