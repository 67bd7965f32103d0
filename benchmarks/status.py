"""Show which cells are done, running, failed, collapsed, skipped or missing, and how long the rest will take.

    python -m benchmarks.status
    python -m benchmarks.status NAME              only the sweep NAME
    python -m benchmarks.status --watch           goes on showing it while a sweep runs
    python -m benchmarks.status --failed          each failed cell with its reason
    python -m benchmarks.status --failed --retry  and runs these cells again
    python -m benchmarks.status --stale           each cell whose method's code has changed since its record was written
    python -m benchmarks.status --retry stale     and runs these cells again, as their sweeps would
    python -m benchmarks.status --confirm 2       runs two cells of each change of code again, elsewhere; where all give
                                                  the recorded figures, the change is noted in results/confirmed.json,
                                                  and the other cells of the old code are stale no more
    python -m benchmarks.status --forget failed   drops the records of failed cells, after a question

A cell is missing when a sweep set out to compute it and no record of it exists yet. A cell is running while its
process shows signs of life; times left are estimated from similar cells.

What counts as a change is what the classes of a method's parts and the files of ours that they import say, without
comments and docstrings. Records that do not tell what their code was are unknown, and not stale.
"""

import io
import shlex
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from benchmarks.boards.labels import label
from benchmarks.boards.tables import Table
from benchmarks.records.agreement import first_difference
from benchmarks.records.code import digest
from benchmarks.records.confirmed import Pair, note, samples
from benchmarks.records.kept import Kept, Known
from benchmarks.records.manifest import RUNNING, Manifest, PlannedCell, read_manifests
from benchmarks.records.schema import Record
from benchmarks.records.store import Problem, Store, Unreadable, read
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.lease import Holder, holders
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.remaining import duration, seconds_left
from benchmarks.sweeps.request import Request
from methods.errors import BadInput, one_line

if TYPE_CHECKING:
    from rich.console import Console

STATES = ("done", "running", "failed", "collapsed", "skipped", "missing")
WATCH_SECONDS = 2.0
YES = ("y", "yes")
Group = tuple[str, str, str]


@dataclass
class State:
    """All that is known of the cells in one folder of results, or of one sweep."""

    records: list[Known]
    manifests: list[Manifest]
    running: list[Holder] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def missing(self) -> list[PlannedCell]:
        """Planned cells that have no record."""
        known = {record.key for record in self.records}
        planned = {cell.key: cell for manifest in self.manifests for cell in manifest.cells}
        return [cell for key, cell in planned.items() if key not in known]

    def of(self, sweep: str) -> "State":
        """The part of this state that belongs to one sweep."""
        manifests = [manifest for manifest in self.manifests if manifest.name == sweep]
        keys = {cell.key for manifest in manifests for cell in manifest.cells}
        records = [record for record in self.records if record.key in keys]
        return State(records, manifests, [holder for holder in self.running if holder.name in keys], self.problems)


def state(paths: Paths, kept: Kept | None = None) -> State:
    """The state of the cells in ``paths``.

    Args:
        paths: the folders.
        kept: what was read before and is not read again; by default, what the last process has left.
    """
    kept = kept or Kept(Store.of(paths), label)
    records, problems = kept.look()
    manifests, faults = read_manifests(paths.runs)
    running = [holder for holder in holders(paths.runs / RUNNING) if holder.alive]
    return State(records, manifests, running, [*problems, *faults])


def counts(
    records: Sequence[Known], manifests: Sequence[Manifest], running: Sequence[Holder] = ()
) -> dict[Group, Counter[str]]:
    """Cells by (data set, model, method) and state; a cell that is tried again counts as running."""
    table: dict[Group, Counter[str]] = defaultdict(Counter)
    active = {holder.name for holder in running}
    for record in records:
        table[record.dataset, record.model, record.method]["running" if record.key in active else record.status] += 1
    for cell in State(list(records), list(manifests)).missing:
        table[cell.dataset, cell.model, cell.method]["running" if cell.key in active else "missing"] += 1
    return dict(sorted(table.items()))


def reasons(records: Sequence[Known]) -> list[list[str]]:
    """For each state but done: how often, for which method, why, and the seeds."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for record in records:
        if record.status != "done":
            why = one_line(record.reason or "")
            groups[record.status, record.dataset, record.model, record.label, why].append(record.seed)
    return [
        [status, f"{dataset} · {model}", method, ",".join(map(str, sorted(set(seeds)))), str(len(seeds)), why]
        for (status, dataset, model, method, why), seeds in sorted(groups.items())
    ]


def tables(found: State, now: float) -> list[Table]:
    """Tables of the counts, of running cells with their workers, and of the reasons; empty ones are left out."""
    table = counts(found.records, found.manifests, found.running)
    states = [name for name in STATES if name != "running" or found.running]
    rows = [[*group, *(str(number[name] or "·") for name in states)] for group, number in table.items()]
    total = sum(table.values(), Counter[str]())
    rows.append(["all", "", "", *(str(total[name]) for name in states)])
    words = {"data set", "model", "method"}
    shown = [Table("Cells", ["data set", "model", "method", *states], rows, left=words)]
    if found.running:
        lines = [[h.label, h.host, str(h.pid), duration(max(now - h.since, 0.0))] for h in found.running]
        shown.append(Table("Running", ["cell", "host", "process", "since"], lines, left={"cell", "host"}))
    explained = reasons(found.records)
    if explained:
        columns = ["state", "cell", "method", "seeds", "n", "reason"]
        shown.append(Table("Why", columns, explained, left=set(columns) - {"n"}))
    return shown


def show(found: State, results: Path, console: "Console") -> None:
    """Everything about ``found`` on ``console``."""
    for problem in found.problems:
        console.print(f"left out: {problem}", markup=False)
    if not found.records and not found.running and not any(manifest.cells for manifest in found.manifests):
        console.print(f"No cells in {results} yet. Start some: python run.py -m method=spectral,random")
        return
    for table in tables(found, time.time()):
        table.show(console)
    missing = {cell.key for cell in found.missing}
    for manifest in found.manifests:
        lacking = [cell for cell in manifest.cells if cell.key in missing]
        if lacking:
            left = seconds_left(found.records, lacking, len(found.running))
            about = f" (about {duration(left)} of training and pruning)" if left is not None else ""
            words = f"{len(lacking)} missing of {manifest.name}{about}; go on with: {manifest.command}"
            console.print(words, markup=False)


def show_failed(found: State, mine: Mapping[str, Record], console: "Console") -> list[Record]:
    """Each failed cell with its key, reason and the last line of its traceback; returns their records.

    Reviewed cells that are not among this machine's runs (``mine``) are results, not something to try again here.
    """
    every = [known.key for known in found.records if known.status == "failed"]
    reviewed = [key for key in every if key not in mine]
    failed = [mine[key] for key in every if key in mine]
    for record in failed:
        name = f"{record.key}  {record.dataset}/{record.model} {label(record)} seed {record.seed}"
        console.print(f"{name}: {record.reason}", markup=False)
        places = [line.strip() for line in (record.traceback or "").splitlines() if line.lstrip().startswith("File ")]
        if places:
            console.print(f"    {places[-1]}", markup=False)
    console.print(f"{len(failed)} failed")
    if reviewed:
        console.print(f"{len(reviewed)} reviewed cells that were refused are results: python -m benchmarks.status")
    return failed


def show_stale(found: State, mine: Mapping[str, Record], console: "Console") -> list[Record]:
    """Each cell whose method's code is another by now; returns the records of this machine's runs among them."""
    stale = [known for known in found.records if known.stale]
    unknown = sum(known.finished and known.code is None for known in found.records)
    for known in stale:
        where = "" if known.key in mine else " (reviewed)"
        name = f"{known.key}  {known.dataset}/{known.model} {known.label} seed {known.seed}"
        console.print(f"{name}: made {known.created[:10]} by other code{where}", markup=False)
    console.print(f"{len(stale)} stale; {unknown} unknown, since their records do not tell the code")
    if len(stale) > len(mine):
        console.print(
            f"{len(stale) - len(mine)} of them are reviewed and stay; to run one elsewhere: "
            "python run.py +from_record=results/cells/DATASET/MODEL/KEY.json paths.results=FOLDER",
            markup=False,
        )
    return [mine[known.key] for known in stale if known.key in mine]


def retry(
    found: State,
    failed: Sequence[Record],
    paths: Paths,
    console: "Console",
    what: Literal["failed", "stale"] = "failed",
) -> int:
    """Run the ``failed`` cells (or stale ones) again as their sweeps would; returns the exit code.

    The record of a stale cell stays until there is a new result, which takes its place in one step.
    """
    from benchmarks.sweeps.application import run
    from benchmarks.sweeps.concluding import show_faults
    from benchmarks.sweeps.run_command import parse
    from benchmarks.sweeps.words import sweeps

    left = {record.key for record in failed}
    faults: list[str] = []
    renewed = {record.key: record.stamp for record in failed} if what == "stale" else {}
    for manifest in found.manifests:
        own = [f"paths.results={paths.results}"]
        cells = [cell for cell in manifest.cells if cell.key in left]
        if not cells:
            continue
        left -= {cell.key for cell in cells}
        request = parse(shlex.split(manifest.command)[2:])
        common = [word for word in request.words if not sweeps(word) and not word.startswith("hydra/sweeper=")]
        again = [cell.model_copy(update={"overrides": [*cell.overrides, *own]}) for cell in cells]
        words = [*common, "hydra/sweeper=secateurs", *own]
        request = Request(words, multirun=True, cells=again, name=manifest.name, concluded=False, renewed=renewed)
        faults += run(request).faults
    show_faults(console, faults)
    if left:
        console.print(f"{len(left)} {what} cells belong to no sweep; type the command again that asked for them")
    now = Store.of(paths).find_all(record.key for record in failed)
    still = [each for each in failed if each.key not in now or not now[each.key].finished or now[each.key] == each]
    console.print(f"{len(failed) - len(still)} of {len(failed)} are not {what} any more")
    return 1 if still or faults else 0


def confirm(found: State, paths: Paths, count: int, console: "Console") -> int:
    """Run ``count`` cells of each change of code again and note the changes that changed no figure; the exit code.

    Records stay as they are: the cells are run in a folder of their own, which is removed.
    """
    from benchmarks.sweeps.application import run

    pairs = [(Pair(known.code or "", digest(known.parts)), known) for known in found.records if known.stale]
    chosen, same, other = samples(pairs, count), [], 0
    console.print(f"{len(pairs)} stale cells of {len(chosen)} changes of code; {count} cells of each are run again")
    store = Store.of(paths)
    files = {path.stem: path for _, path in store.files()}
    with TemporaryDirectory() as folder:
        for number, (pair, cells) in enumerate(sorted(chosen.items()), 1):
            for cell in cells:
                words = [f"+from_record={files[cell.key]}", f"paths.results={folder}", f"paths.cache={folder}"]
                again = run(Request([*words, "track=none", "save=false"], concluded=False)).records
                unlike = first_difference(again[0], read(files[cell.key])) if again else "it has no result"
                if unlike is not None:
                    other += 1
                    console.print(f"{cell.dataset}/{cell.model} {cell.label} {cell.key}: {unlike}", markup=False)
                    break
            else:
                same.append((pair, [cell.key for cell in cells]))
                note(same)
            console.print(f"[{number}/{len(chosen)}] {cells[0].label}", markup=False)
    console.print(f"{len(same)} changes of code changed nothing in {sum(len(cells) for _, cells in same)} cells")
    if other:
        console.print(f"{other} changed figures; to run those again: python -m benchmarks.status --retry stale")
    return 1 if other else 0


def forget(failed: Sequence[Record], paths: Paths, sure: bool, console: "Console") -> int:
    """Remove the records of ``failed`` cells of this machine, if the user is ``sure`` or agrees; returns the exit code.

    What has been tried again meanwhile, or is being, stays.
    """
    store = Store.of(paths)
    if failed and not sure:
        if not sys.stdin.isatty():
            raise BadInput(f"{len(failed)} records of failed cells would be removed\nto do it, add --yes")
        if console.input(f"Remove these {len(failed)} records of failed cells? [y/N] ").strip().lower() not in YES:
            console.print("nothing was removed")
            return 0
    busy = {holder.name for holder in holders(paths.runs / RUNNING) if holder.alive}
    removed = 0
    for record in failed:
        path = store.path_of(record)
        with suppress(FileNotFoundError, Unreadable):
            if record.key not in busy and read(path) == record:
                path.unlink()
                removed += 1
    console.print(f"removed {removed} of {len(failed)} records of failed cells", markup=False)
    return 0


def watch(paths: Paths, sweep: str | None) -> None:
    """Show the state again and again until nothing is running or missing."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console, kept = output_console(), Kept(Store.of(paths), label)
    with Live(console=console, auto_refresh=False, transient=False) as live, ExitStack() as stack:
        stack.callback(kept.save)
        while True:
            found = state(paths, kept) if sweep is None else state(paths, kept).of(sweep)
            text = io.StringIO()
            buffer = Console(file=text, force_terminal=console.is_terminal, width=console.width)
            show(found, paths.results, buffer)
            live.update(Text.from_ansi(text.getvalue()), refresh=True)
            if not found.running and not found.missing:
                return
            time.sleep(WATCH_SECONDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.status``."""
    parser = Parser(prog="python -m benchmarks.status", description="Show the state of all cells.")
    parser.add_argument("sweep", nargs="?", default=None, help="the name of one sweep; all unless given")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    parser.add_argument("--watch", action="store_true", help="go on until nothing is running or missing")
    parser.add_argument("--failed", action="store_true", help="show each failed cell")
    parser.add_argument("--stale", action="store_true", help="show each cell whose method's code has changed since")
    parser.add_argument(
        "--retry",
        nargs="?",
        const="failed",
        choices=["failed", "stale"],
        help="run the failed cells (or the stale ones) again, here and now, as their sweeps would",
    )
    parser.add_argument("--forget", choices=["failed"], help="drop the records of failed cells, after a question")
    parser.add_argument("--yes", action="store_true", help="with --forget: without the question")
    parser.add_argument(
        "--confirm", type=int, metavar="N", help="run N cells of each change of code again, and note where none differs"
    )
    chosen = parser.parse_args(arguments)
    if chosen.yes and not chosen.forget:
        raise BadInput("--yes answers the question of --forget\ntype python -m benchmarks.status --forget failed --yes")
    paths, console = Paths(chosen.results), output_console()
    kept = Kept(Store.of(paths), label)
    found = state(paths, kept)
    kept.save()
    if chosen.sweep is not None:
        if chosen.sweep not in (names := [manifest.name for manifest in found.manifests]):
            known = ", ".join(names) or "none yet"
            raise BadInput(f"No sweep named {chosen.sweep!r} in {chosen.results}; there are: {known}.")
        found = found.of(chosen.sweep)
    if chosen.confirm is not None:
        if chosen.confirm < 1:
            raise BadInput(f"--confirm {chosen.confirm}: expected a number of cells, at least 1\ntype --confirm 2")
        return confirm(found, paths, chosen.confirm, console)
    if chosen.stale or chosen.retry == "stale":
        mine = Store.of(paths).find_all(record.key for record in found.records if record.stale)
        stale = show_stale(found, mine, console)
        return retry(found, stale, paths, console, "stale") if chosen.retry is not None and stale else 0
    if chosen.failed or chosen.retry is not None or chosen.forget:
        keys = [record.key for record in found.records if record.status == "failed"]
        failed = show_failed(found, Store.of(paths).find_all(keys), console)
        if chosen.forget:
            return forget(failed, paths, chosen.yes, console)
        return retry(found, failed, paths, console) if chosen.retry is not None and failed else 0
    if chosen.watch:
        watch(paths, chosen.sweep)
    else:
        show(found, chosen.results, console)
    return 0


if __name__ == "__main__":
    end(main)
