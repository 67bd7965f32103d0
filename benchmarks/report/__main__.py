"""The command ``python -m benchmarks.report``."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.boards.frame import load, records_mark
from benchmarks.boards.rendering import asked
from benchmarks.records.schema import Record
from benchmarks.records.store import Store
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.paths import Paths, remove_temporaries, write_atomically
from methods.errors import BadInput
from methods.progress import track

CONTROL = "random"


def main(arguments: Sequence[str] | None = None) -> int:
    """Render the pages and the figures."""
    parser = Parser(prog="python -m benchmarks.report", description="Render the report.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    parser.add_argument("--out", type=Path, default=None, help="folder of the report")
    parser.add_argument("--where", default=None, help="pandas query over the records")
    parser.add_argument("--baseline", default=None, help="method that the others are compared with (random)")
    parser.add_argument("--committed", action="store_true", help="only committed records, no runs of this machine")
    parser.add_argument("--no-figures", action="store_true", help="only the pages, no SVG and PNG files")
    chosen = parser.parse_args(arguments)
    paths, console = Paths(chosen.results), output_console()
    out = chosen.out or paths.boards_of(chosen.committed, bool(chosen.where or chosen.baseline))
    store = Store.of(paths)
    console.print(f"reading the records in {chosen.results}", markup=False, highlight=False)
    cells, problems = load(store, chosen.committed)
    cells = asked(cells, chosen.where)
    if not cells:
        raise BadInput(
            f"No records to report in {chosen.results}. Run a sweep first, for instance:\n"
            "  python run.py -m method=spectral,dpp,magnitude,random"
        )
    from benchmarks.boards.rendering import say_left_out
    from benchmarks.report import page

    console.print(f"{len(cells)} records; drawing the page", highlight=False)
    opened = (store.open(Path(cell["_file"])) for cell in track(cells, "reading records in full"))
    records = [found for found in opened if isinstance(found, Record)]
    baseline = chosen.baseline or (CONTROL if any(cell["method"] == CONTROL for cell in cells) else None)
    report = page.make(cells, records, problems, baseline, chosen.results)
    remove_temporaries(out)
    pages = page.html(report, records_mark(cells))
    for name, text in pages.items():
        write_atomically(out / name, text)
    others = " and ".join(name for name in pages if name != "report.html")
    console.print(f"written: {out / 'report.html'}, with {others} beside it", markup=False)
    say_left_out(problems, console)
    if not chosen.no_figures:
        files = page.save_figures(report, out / "figures")
        console.print(f"written: {len(files)} figures in {out / 'figures'}", markup=False)
    return 0


if __name__ == "__main__":
    end(main)
