"""Render leaderboards from the records alone: one table per (data set, model, budget), and tables over networks.

    python -m benchmarks.leaderboard
    python -m benchmarks.leaderboard --where "dataset == 'mnist' and budget == 'speedup'" --baseline random
    python -m benchmarks.leaderboard --committed      the boards under version control, from the committed records only
    python -m benchmarks.leaderboard --reviewed       also prints reviewed records
    python -m benchmarks.leaderboard --check          whether the boards under version control are up to date
    python -m benchmarks.leaderboard --theory         which theory predicts the damage best

n, mean and sample standard deviation over seeds; every pair is better, equal or undecided. The same records
give the same files, byte for byte.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.boards.board import TASK, Question, boards
from benchmarks.boards.excerpts import renew
from benchmarks.boards.frame import load, records_mark
from benchmarks.boards.layout import CHANGED, CODE, RECONSTRUCTED
from benchmarks.boards.rendering import FILES, FORMATS, USUAL, documents, rankings_of, render
from benchmarks.boards.tables import latex_text
from benchmarks.records.store import Store
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.paths import Paths
from methods.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console


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
        if not path.is_file() or unmarked(path.read_bytes().decode(errors="replace")) != unmarked(str(text)):
            found.append(path.name)
    if (folder / "leaderboard.md").is_file():
        found += renew(folder / "leaderboard.md", store.cells.parent.parent, write=False)
    page = folder / "report.html"
    if not page.is_file() or records_mark(cells) not in page.read_text(encoding="utf-8", errors="replace"):
        found.append(page.name)
    return found


def unmarked(text: str) -> str:
    """A board without its marks for code changed since its records were made: those are no change of the records."""
    for mark in (CHANGED, latex_text(CHANGED)):
        text = text.replace(f"{RECONSTRUCTED}{mark}", RECONSTRUCTED).replace(f" {mark}", "")
        text = text.replace(f"{latex_text(RECONSTRUCTED)}{mark}", latex_text(RECONSTRUCTED))
    return "\n".join(line for line in text.splitlines() if line.strip() and CODE[:25] not in line)


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
        from benchmarks.boards import theory

        return theory.show(store, chosen.out or paths.boards, console, chosen.where)
    part = chosen.where or chosen.metric or chosen.baseline or chosen.interval or chosen.group_by != ",".join(TASK)
    out = chosen.out or paths.boards_of(chosen.committed, bool(part) and formats != ["terminal"])
    question = Question(chosen.metric, chosen.baseline, tuple(chosen.group_by.split(",")))
    choices: Mapping[str, Any] = {
        **{"where": chosen.where, "question": question},
        **{"committed": chosen.committed, "reviewed": chosen.reviewed or chosen.baseline is not None},
    }
    count = render(store, out, console, formats=formats, interval=chosen.interval, **choices)
    if count == 0:
        asked = f" that match {chosen.where!r}" if chosen.where else ""
        raise BadInput(
            f"No records{asked} in {chosen.results}. Run a sweep first, for instance:\n"
            "  python run.py -m method=spectral,dpp,magnitude,random"
        )
    written = [str(out / f"leaderboard.{name}") for name in formats if name != "terminal"]
    if chosen.committed and out == paths.committed_boards and "md" in formats:
        written += renew(out / "leaderboard.md", paths.results.parent)
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


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.leaderboard", description="Render the leaderboards.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    parser.add_argument("--out", type=Path, default=None, help="folder of the boards")
    parser.add_argument(
        "--where", default=None, help="query over columns and options, e.g. \"method == 'spectral' and theta == 0.5\""
    )
    parser.add_argument("--group-by", default=",".join(TASK), help=f"columns of one board each ({','.join(TASK)})")
    parser.add_argument("--metric", default=None, help="what ranks (tuned_accuracy; tuned_loss where there is none)")
    parser.add_argument("--baseline", default=None, help="method that the others, reviewed ones too, are compared with")
    parser.add_argument("--interval", action="store_true", help="95 %% intervals instead of standard deviations")
    parser.add_argument("--format", default=",".join(USUAL), help=f"of {','.join(FORMATS)}, separated by commas")
    parser.add_argument("--committed", action="store_true", help="only committed records, no runs of this machine")
    parser.add_argument("--reviewed", action="store_true", help="print reviewed records, too, not only your own")
    parser.add_argument("--check", action="store_true", help="fail if the committed boards are out of date")
    parser.add_argument("--theory", action="store_true", help="rank the theories by how well they predict the damage")
    return parser


if __name__ == "__main__":
    end(main)
