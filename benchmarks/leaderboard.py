"""Leaderboards: one table per (data set, model, budget) and one over all tasks, rendered from nothing but the records.

    python -m benchmarks.leaderboard
    python -m benchmarks.leaderboard --where "dataset == 'mnist' and budget == 'speedup'" --baseline random
    python -m benchmarks.leaderboard --committed      the boards under version control, from the committed records only
    python -m benchmarks.leaderboard --check          whether those are up to date
    python -m benchmarks.leaderboard --theory         which theory predicts the damage best

n, mean and sample standard deviation over seeds; methods that no paired test separates share a rank. The same records
give the same files, byte for byte.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import checklist, overall
from benchmarks.board import TASK, Board, Question, boards
from benchmarks.board_table import RULE, csv_of, table_of
from benchmarks.command import end
from benchmarks.frame import Row as Cell
from benchmarks.frame import load, records_mark, select
from benchmarks.paths import Paths, write_atomically
from benchmarks.records import Problem, Store
from benchmarks.tables import Table, html_text, latex_text, output_console
from methods.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

FORMATS = ("terminal", "md", "csv", "tex", "html")
FILES = FORMATS[1:]
USUAL = ("terminal", "md", "csv")
LEGEND = " (leaderboard.md says at its end what they ask for)"


def rankings_of(cells: Sequence[Cell], question: Question) -> list[Table]:
    """The comparisons over tasks, as tables."""
    return [overall.table_of(found) for found in overall.comparisons(cells, question)]


def documents(
    cells: Sequence[Cell],
    rankings: Sequence[Table],
    every: Sequence[Board],
    formats: Sequence[str],
    interval: bool = False,
) -> dict[str, str]:
    """The boards ``every`` of ``cells`` and the rankings over tasks as files, by the ending of their names."""
    tables = [table_of(board, interval=interval) for board in every]
    tables = [*rankings, *tables, checklist.table_of(checklist.examine(cells))]
    title = "Leaderboard"
    rule = f"Accuracy {RULE}. {_origin(cells)}"
    writers = {
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
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 75rem; padding: 0 1rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
.title {{ font-weight: 600; margin: 2rem 0 .25rem; }}
th, td {{ padding: .2rem .6rem; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }}
.number {{ text-align: right; }}
.words {{ text-align: left; }}
.short {{ white-space: nowrap; }}
.note {{ margin: .2rem 0; font-size: .85rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{rule}</p>
{sections}
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
    console: "Console | None" = None,
    *,
    where: str | None = None,
    formats: Sequence[str] = USUAL,
    only: frozenset[str] | None = None,
    question: Question | None = None,
    committed: bool = False,
    interval: bool = False,
) -> int:
    """Render the boards of ``store``: files into ``out``, tables on ``console``.

    Args:
        store: the records.
        out: folder for ``leaderboard.md`` and its like.
        console: where to print; None prints nothing.
        where: a pandas query over the records.
        formats: some of ``FORMATS``.
        only: print just the boards that hold one of these cells; the files always hold all.
        question: metric, baseline and grouping.
        committed: use the committed records only.
        interval: show 95 % intervals in place of standard deviations.

    Returns:
        The number of boards.
    """
    cells, problems = load(store, committed)
    cells, question = select(cells, where), question or Question()
    _check_question(cells, question)
    every = boards(cells, question)
    files = [name for name in formats if name != "terminal"]
    rankings = rankings_of(cells, question) if files or only is None else []
    if every and files:
        for name, text in documents(cells, rankings, every, files, interval).items():
            write_atomically(out / f"leaderboard.{name}", text)
    if console is not None:
        if "terminal" in formats:
            _print(every, cells, rankings, console, only, interval, LEGEND if "md" in formats else "")
        _say_left_out(problems, console)
    return len(every)


def _print(
    every: Sequence[Board],
    cells: Sequence[Cell],
    rankings: Sequence[Table],
    console: "Console",
    only: frozenset[str] | None,
    interval: bool,
    legend: str,
) -> None:
    from rich.text import Text

    shown = [board for board in every if only is None or only & board.keys]
    for board in shown:
        table_of(board, compact=True, interval=interval).show(console)
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


def _say_left_out(problems: Sequence[Problem], console: "Console") -> None:
    from rich.text import Text

    for problem in problems:
        console.print(Text(f"left out: {problem}", style="yellow"))


def outdated(store: Store, folder: Path) -> list[str]:
    """Names of the committed boards that rendering from the committed records would change.

    The report takes a minute to render; of it only the mark of the records it was made from is compared.
    """
    cells, problems = load(store, committed_only=True)
    if problems:
        raise BadInput(f"A committed record cannot be used: {problems[0]}")
    if not cells:
        return []
    found = []
    question = Question()
    for ending, text in documents(cells, rankings_of(cells, question), boards(cells, question), FILES).items():
        path = folder / f"leaderboard.{ending}"
        if not path.is_file() or path.read_bytes() != text.encode():
            found.append(path.name)
    page = folder / "report.html"
    if not page.is_file() or records_mark(cells) not in page.read_text(encoding="utf-8", errors="replace"):
        found.append(page.name)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.leaderboard``."""
    chosen = _parser().parse_args(arguments)
    formats = chosen.format.split(",")
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise BadInput(f"Unknown format {', '.join(unknown)}; expected some of {', '.join(FORMATS)}.")
    paths, console = Paths(chosen.results), output_console()
    store = Store.of(paths)
    if chosen.check:
        return _check(store, paths.committed_boards, console)
    if chosen.theory:
        from benchmarks import theory

        return theory.show(store, chosen.out or paths.boards, console, chosen.where)
    part = chosen.where or chosen.metric or chosen.baseline or chosen.interval or chosen.group_by != ",".join(TASK)
    out = chosen.out or paths.boards_of(chosen.committed, bool(part) and formats != ["terminal"])
    question = Question(chosen.metric, chosen.baseline, tuple(chosen.group_by.split(",")))
    choices: Mapping[str, Any] = {"where": chosen.where, "question": question, "committed": chosen.committed}
    count = render(store, out, console, formats=formats, interval=chosen.interval, **choices)
    if count == 0:
        asked = f" that match {chosen.where!r}" if chosen.where else ""
        raise BadInput(
            f"No records{asked} in {chosen.results}. Run a sweep first, for instance:\n"
            "  python run.py -m method=spectral,dpp,magnitude,random"
        )
    written = [str(out / f"leaderboard.{name}") for name in formats if name != "terminal"]
    if written:
        console.print(f"written: {', '.join(written)}", markup=False)
    return 0


def _check(store: Store, folder: Path, console: "Console") -> int:
    stale = outdated(store, folder)
    if stale:
        console.print(f"out of date in {folder}: {', '.join(stale)}", markup=False)
        console.print(
            "Render them: python -m benchmarks.leaderboard --committed --format md,csv,tex,html\n"
            "             python -m benchmarks.report --committed --no-figures",
            markup=False,
        )
        return 1
    console.print(f"the boards in {folder} are what the committed records give", markup=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaderboard", description="Render the leaderboards.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    parser.add_argument("--out", type=Path, default=None, help="folder of the boards")
    parser.add_argument("--where", default=None, help="pandas query, e.g. \"method == 'spectral' and seed < 3\"")
    parser.add_argument("--group-by", default=",".join(TASK), help=f"columns of one board each ({','.join(TASK)})")
    parser.add_argument("--metric", default=None, help="what ranks (tuned_accuracy; tuned_loss for regression)")
    parser.add_argument("--baseline", default=None, help="method that the others are compared with, e.g. random")
    parser.add_argument("--interval", action="store_true", help="95 %% intervals instead of standard deviations")
    parser.add_argument("--format", default=",".join(USUAL), help=f"of {','.join(FORMATS)}, separated by commas")
    parser.add_argument("--committed", action="store_true", help="only committed records, no runs of this machine")
    parser.add_argument("--check", action="store_true", help="fail if the committed boards are out of date")
    parser.add_argument("--theory", action="store_true", help="rank the theories by how well they predict the damage")
    return parser


if __name__ == "__main__":
    end(main)
