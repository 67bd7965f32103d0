"""Render boards as files: which there are, in which formats, and what each contains."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.boards import checklist, overall
from benchmarks.boards.board import Board, Question, boards
from benchmarks.boards.claims.findings import tables_of as claimed
from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.frame import load, select
from benchmarks.boards.layout import RULE, csv_of, lines_of, table_of
from benchmarks.boards.options import named_in, quoted, with_options
from benchmarks.boards.tables import Table, html_text, latex_text
from benchmarks.records.store import Problem, Store
from benchmarks.storage.paths import write_atomically
from methods.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console


FORMATS = ("terminal", "md", "csv", "tex", "html", "parquet")


FILES = ("md", "csv", "tex", "html")  # endings of the files of reviewed boards


USUAL = ("terminal", "md", "csv")


LEGEND = " (leaderboard.md says at its end what they ask for)"


def rankings_of(cells: Sequence[Cell], question: Question) -> list[Table]:
    """The comparisons over networks, as tables."""
    return [overall.table_of(found) for found in overall.comparisons(cells, question)]


def documents(
    cells: Sequence[Cell],
    rankings: Sequence[Table],
    every: Sequence[Board],
    formats: Sequence[str],
    interval: bool = False,
) -> dict[str, str | bytes]:
    """The boards ``every`` of ``cells`` and the rankings over networks as files, by the ending of their names."""
    tables = [table for board in every for table in (table_of(board, interval=interval), *claimed(board))]
    tables = [*rankings, *tables, checklist.table_of(checklist.examine(cells))]
    title = "Leaderboard"
    rule = f"Accuracy {RULE}. {_origin(cells)}"
    writers: dict[str, Callable[[], str | bytes]] = {
        "parquet": lambda: parquet_of(every),
        "md": lambda: f"# {title}\n\n{rule}\n\n" + "\n".join(table.markdown() for table in tables),
        "csv": lambda: csv_of(every),
        "tex": lambda: (
            f"% {title}: needs the packages booktabs and graphicx. {latex_text(rule)}\n"
            + "\n".join(table.latex() for table in tables)
        ),
        "html": lambda: PAGE.format(
            title=html_text(title), rule=html_text(rule), sections="\n".join(table.html() for table in tables)
        ),
    }
    return {name: writers[name]() for name in formats}


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 84rem; padding: 0 1rem; }}
.scroll {{ overflow: auto; max-height: 85vh; }}
table {{ border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; font-size: .9rem; }}
.title {{ font-weight: 600; margin: 2rem 0 .25rem; overflow-wrap: anywhere; }}
th, td {{ padding: .2rem .6rem; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }}
thead th {{ position: sticky; top: 0; background: Canvas; white-space: nowrap; }}
.number {{ text-align: right; white-space: nowrap; }}
.words {{ text-align: left; min-width: 12rem; }}
.short {{ min-width: 0; white-space: nowrap; }}
.note {{ margin: .2rem 0; font-size: .85rem; overflow-wrap: anywhere; }}
@media print {{
  :root {{ color-scheme: light; }}
  @page {{ size: A4 landscape; margin: 12mm; }}
  .scroll {{ overflow: visible; max-height: none; }}
  table {{ font-size: 7pt; }}
  th, td {{ padding: .1rem .25rem; }}
  tr {{ break-inside: avoid; }}
  .title {{ break-after: avoid; }}
}}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{rule}</p>
{sections}
</main>
</body>
</html>
"""


def _origin(cells: Sequence[Cell]) -> str:
    committed = sum(bool(cell.get("_committed")) for cell in cells)
    own = len(cells) - committed
    return f"{len(cells)} records: {committed} committed, {own} of this machine's own runs."


def render(
    store: Store,
    out: Path,
    console: Console | None = None,
    *,
    where: str | None = None,
    formats: Sequence[str] = USUAL,
    only: frozenset[str] | None = None,
    question: Question | None = None,
    committed: bool = False,
    interval: bool = False,
    reviewed: bool = False,
) -> int:
    """Render the boards of ``store``: files into ``out``, tables on ``console``.

    Args:
        store: the records.
        out: folder for ``leaderboard.md`` and its like.
        console: where to print; None prints nothing.
        where: a pandas query over the records.
        formats: some of ``FORMATS``.
        only: print just the boards that hold one of these cells, with this machine's own records; the files always
            hold all.
        question: metric, baseline and grouping.
        committed: use the committed records only.
        interval: show 95 % intervals in place of standard deviations.
        reviewed: print reviewed records, too; without it, boards of this machine's own records.

    Returns:
        The number of boards.
    """
    cells, problems = load(store, committed)
    question = question or Question()
    cells = with_options(asked(cells, where), question.group_by)
    _check_question(cells, question)
    every = boards(cells, question)
    files = [name for name in formats if name != "terminal"]
    everything = reviewed or committed or where is not None
    rankings = rankings_of(cells, question) if files or (everything and only is None) else []
    if every and files:
        for name, text in documents(cells, rankings, every, files, interval).items():
            write_atomically(out / f"leaderboard.{name}", text)
    if console is not None:
        if "terminal" in formats:
            legend = LEGEND if "md" in formats else ""
            if everything:
                shown = [board for board in every if only is None or only & board.keys]
                shown.sort(key=lambda board: all(cell.get("_committed") for cell in board.cells))  # one's own first
                _print(shown, cells, rankings, console, only, interval, legend)
            else:
                _print_own(every, cells, console, question, only, interval, legend)
        say_left_out(problems, console)
    return len(every)


def asked(cells: Sequence[Cell], where: str | None) -> list[Cell]:
    """The rows for which the query ``where`` holds; it may name options, such as ``selection.theta`` or ``theta``."""
    if where is None or not cells:
        return list(cells)
    rows = with_options(cells, named_in(where))
    return select(rows, quoted(where, {name for row in rows[:1] for name in row}))


def parquet_of(every: Sequence[Board]) -> bytes:
    """All boards as one Parquet file with unrounded numbers, the columns of the CSV; accuracies are fractions."""
    import pyarrow
    import pyarrow.parquet as parquet

    columns, lines = lines_of(every)
    named = {name: [line[place] for line in lines] for place, name in enumerate(columns)}
    content = io.BytesIO()
    parquet.write_table(pyarrow.table(named), content)
    return content.getvalue()


def _print_own(
    every: Sequence[Board],
    cells: Sequence[Cell],
    console: Console,
    question: Question,
    only: frozenset[str] | None,
    interval: bool,
    legend: str,
) -> None:
    """Print boards of this machine's own records, and say in one line how to see the reviewed ones.

    Own records are ranked among themselves: ranks among rows that are not shown would only confuse. If there are no
    own records, the boards ``every`` of all records are listed by name.
    """
    own = [cell for cell in cells if not cell.get("_committed") or cell["key"] in (only or ())]
    found = boards(own, question)
    shown = [board for board in found if only is None or only & board.keys]
    hidden = len(cells) - len(own)
    rankings = rankings_of(own, question) if only is None else []
    _print(shown, own, rankings, console, only, interval, legend)
    if not hidden:
        return
    if not shown:
        console.print("no records of this machine's own; reviewed boards:", markup=False)
        for board in every:
            name = table_of(board).title.partition(":")[0]
            console.print(f"  {name}: {len(board.rows)} rows", markup=False)
    beside = sum(len(board.rows) for board in every if any(board.keys & mine.keys for mine in shown))
    ranked = f" (of these tasks: {beside} rows)" if beside else ""
    console.print(
        f"{hidden:,} reviewed records are not shown{ranked}: {command_for(shown)} prints them, too",
        markup=False,
        soft_wrap=True,
    )


def command_for(shown: Sequence[Board]) -> str:
    """The command that also shows reviewed records for the boards ``shown``; for a single board, only that one."""
    command = "python -m benchmarks.leaderboard --reviewed"
    group = shown[0].group if len(shown) == 1 else {}
    known = {name: group[name] for name in ("dataset", "model", "budget", "value") if group.get(name) is not None}
    if not known:
        return command
    exact = {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in known.items()}
    words = " and ".join(f"{name} == {value!r}" for name, value in exact.items())
    return f'{command} --where "{words}"'


def _print(
    shown: Sequence[Board],
    cells: Sequence[Cell],
    rankings: Sequence[Table],
    console: Console,
    only: frozenset[str] | None,
    interval: bool,
    legend: str,
) -> None:
    """Print the boards ``shown``, and after all boards of a store, not of one sweep, rankings and checklist."""
    from rich.text import Text

    for board in shown:
        table_of(board, compact=True, interval=interval).show(console)
        if only is None:
            console.print(Text(checklist.line(checklist.examine(board.cells), legend), style="dim"))
    if only is None:
        for table in rankings:
            table.show(console)
        if len(shown) > 1:
            console.print(Text("All boards: " + checklist.line(checklist.examine(cells), legend), style="dim"))


def _check_question(cells: Sequence[Cell], question: Question) -> None:
    """Refuse a metric or a baseline that no record has."""
    if not cells:
        return
    if question.metric is not None and not any(_number(cell.get(question.metric)) for cell in cells):
        names = sorted({name for cell in cells for name, value in cell.items() if _number(value)} - {"seed", "value"})
        raise BadInput(
            f"No record has a number {question.metric!r}.\n"
            f"Expected one of: {', '.join(name for name in names if not name.startswith('_'))}."
        )
    if question.baseline is not None:
        names = sorted({cell["label"] for cell in cells} | {cell["method"] for cell in cells})
        stem = question.baseline.partition(" [")[0]
        if stem not in names:
            raise BadInput(f"No method {question.baseline!r} in these records; expected one of: {', '.join(names)}.")


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def say_left_out(problems: Sequence[Problem], console: Console) -> None:
    """Name each file that could not be used, and why, on a line of its own."""
    for problem in problems:
        console.print(f"left out: {problem}", style="yellow", markup=False)
