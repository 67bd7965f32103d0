"""Report on the cells of a call: which there are, how they ended, and what to type next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from benchmarks.cells.tracker import BOARD, tracking
from benchmarks.records.manifest import RUNNING
from benchmarks.records.store import Store
from benchmarks.storage.lease import remove_finished
from benchmarks.storage.paths import remove_temporaries
from benchmarks.sweeps.launching import status_line
from benchmarks.sweeps.planning import Plan
from benchmarks.sweeps.request import Outcome
from methods.errors import BadInput, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.records.schema import Record

SHOWN = 20  # missing cells that are named one by one


def list_cells(console: Console, plan: Plan, found: Mapping[str, Record]) -> None:
    """Print each cell and whether its result is there; ``found`` are the records by their keys."""
    reviewed = Store.of(plan.paths).reviewed()
    for cell in plan.cells:
        record = found.get(cell.key)
        state = record.status if record else "reviewed" if cell.key in reviewed else "missing"
        console.print(f"{state:<10}{cell.key}  {' '.join(cell.overrides)}", markup=False, highlight=False)
    console.print(f"{len(plan.cells)} cell{'s' * (len(plan.cells) != 1)} of {plan.name}", highlight=False)
    if any(cell.key in reviewed and cell.key not in found for cell in plan.cells):
        console.print("reviewed: its result came with the project; a sweep computes it anew here", highlight=False)


def conclude(console: Console, plan: Plan, faults: Sequence[str], records: Mapping[str, Record]) -> Outcome:
    """Print the boards of these cells and what went wrong.

    Args:
        console: where to print.
        plan: the plan with the cells.
        faults: messages of the cells that left no record.
        records: the records of the cells that have one, by key.
    """
    from benchmarks.boards.rendering import render

    store = Store.of(plan.paths)
    remove_temporaries(plan.paths.boards)
    with suppress(OSError):  # results that cannot be written can still be shown
        finished = {key for key, record in records.items() if record.finished}
        remove_finished(plan.paths.runs / RUNNING, finished)
        store.drop_second_names(finished)
    if records:
        try:
            render(store, plan.paths.boards, console, only=frozenset(cell.key for cell in plan.cells))
            console.print(f"boards: {plan.paths.boards}/leaderboard.md, .csv", highlight=False)
        except (BadInput, OSError) as error:  # a full or read-only disk: the lost cells are still named
            faults = [*faults, f"no boards: {error}"]
    failed = [record for record in records.values() if record.status == "failed"]
    absent = [cell for cell in plan.cells if cell.key not in records]
    for record in failed:
        console.print(status_line(record))
    without = [record for record in records.values() if record.status in ("failed", "skipped")]
    hints = dict.fromkeys("\n".join((record.reason or "").splitlines()[1:]) for record in without)
    for hint in filter(None, hints):  # what to type, once for all cells that ended alike
        console.print(hint, markup=False, highlight=False)
    unranked = Counter(record.status for record in records.values() if record.status in ("collapsed", "skipped"))
    if unranked:
        said = " and ".join(f"{number} {status}" for status, number in sorted(unranked.items()))
        console.print(f"[yellow]{said}[/] of {len(plan.cells)}: a result, but no network that could be ranked")
    show_faults(console, faults)
    if absent:
        console.print(f"[red]{len(absent)} of {len(plan.cells)} cells have no record[/]; the same command runs them:")
        for cell in absent[:SHOWN]:
            console.print(f"  {cell.key}  {' '.join(cell.overrides)}", markup=False, highlight=False)
        if len(absent) > SHOWN:
            console.print(f"  and {len(absent) - SHOWN} more: python -m benchmarks.status {plan.name}", highlight=False)
    if failed:
        console.print(
            f"[red]{len(failed)} of {len(plan.cells)} cells failed[/]; the same command tries them again. "
            f"Details: the records under {plan.paths.runs}",
            highlight=False,
        )
    return outcome_of(plan, faults, records)


def log_board(plan: Plan, records: Mapping[str, Record], section: Mapping[str, Any]) -> None:
    """Log the board of the cells of ``plan`` as a table of W&B, in its own run, separate from those of the cells.

    Args:
        plan: the sweep, which names the run and its group.
        records: the records of its cells, by key.
        section: the configuration's ``track``.
    """
    from benchmarks.boards.board import boards
    from benchmarks.boards.frame import rows_of
    from benchmarks.boards.layout import lines_of

    if not records or section.get("mode") == "disabled":
        return
    columns, lines = lines_of(boards(rows_of(records.values())))
    with tracking(section, f"{plan.name}: {BOARD}", plan.name, {"sweep": plan.name}, BOARD) as tracker:
        tracker.table("leaderboard", [dict(zip(columns, line, strict=True)) for line in lines])


def show_faults(console: Console, faults: Sequence[str]) -> None:
    """Print why cells left no record, once for all cells with the same message."""
    from rich.markup import escape

    for fault, number in Counter(faults).items():
        what, _, hint = fault.strip().partition("\n")
        cells = f" ({number} cells)" if number > 1 else ""
        console.print(f"[red]✗[/] {escape(one_line(what, 400))}{cells}", highlight=False)
        if hint:
            console.print(hint, markup=False, highlight=False)


def outcome_of(plan: Plan, faults: Sequence[str], found: Mapping[str, Record]) -> Outcome:
    """How the cells of ``plan`` ended, where ``faults`` left no record; ``found`` are the records by their keys."""
    records = [found[cell.key] for cell in plan.cells if cell.key in found]
    unfinished = len(records) < len(plan.cells) or any(record.status == "failed" for record in records)
    return Outcome(1 if unfinished or faults else 0, plan.cells, records, list(faults))
