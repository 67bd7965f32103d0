"""Show the named grids (``conf/experiment``): what is done, what is missing, the time left, the command to continue.

    python -m benchmarks.grids                      all of them
    python -m benchmarks.grids digits char_gpt      these
    python -m benchmarks.grids --results FOLDER     by the records of another folder

A cell is done when this machine's records or the reviewed ones have it, be it refused or collapsed: that is a result.
Times are estimated from what cells of the same data set and model took, on whatever machine that was, for one process;
where there is none yet they are unknown. Cells are leased, so that
any number of processes and machines that share the folder may run the same command, and a stopped one goes on. On a
machine of its own, `python -m benchmarks.submit` moves what it has made to the reviewed records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.boards.labels import label
from benchmarks.boards.tables import Table
from benchmarks.records.kept import Kept, Known
from benchmarks.records.manifest import PlannedCell
from benchmarks.records.store import Store
from benchmarks.settings.home import CONF
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.planning import make_plan
from benchmarks.sweeps.remaining import duration, seconds_left
from benchmarks.sweeps.request import Request
from methods.errors import BadInput
from methods.progress import track

WIDTH = 10  # letters of a bar


@dataclass(frozen=True)
class Grid:
    """One grid and what is known of it.

    Attributes:
        name: the name of the experiment.
        cells: how many it has, without controls.
        missing: those without a result.
        seconds: that one process will take for the missing ones; None where no cell of their task has been run yet.
    """

    name: str
    cells: int
    missing: Sequence[PlannedCell]
    seconds: float | None

    @property
    def done(self) -> int:
        """Cells with a result."""
        return self.cells - len(self.missing)

    @property
    def command(self) -> str:
        """What computes the missing cells."""
        return f"python run.py -m +experiment={self.name}"


def names() -> list[str]:
    """The names of all experiments."""
    return sorted(path.stem for path in (Path(CONF) / "experiment").glob("*.yaml"))


def grids(chosen: Iterable[str], records: Sequence[Known], results: Path, cache: Path) -> list[Grid]:
    """The ``chosen`` grids, judged by ``records``.

    Raises:
        BadInput: an experiment cannot be composed; the message is Hydra's.
    """
    composer = Composer(CONF)
    done = {record.key for record in records if record.status != "failed"}
    tasks = {(record.dataset, record.model) for record in records if record.finished}
    found = []
    for name in track(list(chosen), "planning grids"):
        words = [f"+experiment={name}", f"paths.results={results}", f"paths.cache={cache}"]
        plan = make_plan(composer, Request(words, multirun=True))
        missing = [cell for cell in plan.cells if cell.key not in done]
        judged = all((cell.dataset, cell.model) in tasks for cell in missing)
        found.append(Grid(name, len(plan.cells), missing, (seconds_left(records, missing) or 0.0) if judged else None))
    return found


def table(found: Sequence[Grid]) -> Table:
    """The grids with the least left first; those that nobody has begun and that cannot be judged last."""
    ordered = sorted(found, key=lambda grid: (grid.seconds is None, grid.seconds or 0.0, grid.name))
    rows = []
    for grid in ordered:
        bar = "#" * (WIDTH * grid.done // grid.cells)
        left = "unknown" if grid.seconds is None else duration(grid.seconds) if grid.missing else "nothing"
        rows.append([grid.name, bar.ljust(WIDTH, "."), f"{grid.done}/{grid.cells}", left, grid.command])
    columns = ["grid", "", "done", "left", "goes on with"]
    return Table("Grids", columns, rows, left={"grid", "", "goes on with"})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.grids``."""
    parser = Parser(prog="python -m benchmarks.grids", description="Show how far the named grids are.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of an experiment; all unless given")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder of the caches (.cache)")
    chosen = parser.parse_args(arguments)
    known = names()
    for name in chosen.names:
        if name not in known:
            raise BadInput(f"no grid is called {name!r}\nthere are: {', '.join(known)}")
    console = output_console()
    kept = Kept(Store.of(Paths(chosen.results)), label)
    records, problems = kept.look()
    kept.save()
    for problem in problems:
        console.print(f"left out: {problem}", markup=False)
    found = grids(chosen.names or known, records, chosen.results, chosen.cache)
    table(found).show(console)
    missing = sum(len(grid.missing) for grid in found)
    console.print(f"{missing} cells missing of {sum(grid.cells for grid in found)}; estimates are for one process")
    return 0


if __name__ == "__main__":
    end(main)
