"""Run the missing cells of a sweep with one of Hydra's launchers, until nothing more can be done.

The process that runs a cell holds a lease under ``<runs>/.running``: sweeps that share a folder, on one machine or on
a cluster, run no cell twice. A cell that another process runs is left for later, and waited for only when nothing else
is left. A worker that is killed takes down Hydra's launcher, and with joblib the cells of all other workers. Then the
remaining cells are launched, and after them, one by one, the cells whose workers died, so that only the culprit dies
again: it is named and given up.
"""

from __future__ import annotations

import io
import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.records.manifest import RUNNING, PlannedCell
from benchmarks.records.schema import Record
from benchmarks.records.store import Store
from benchmarks.storage.console import output_console
from benchmarks.storage.lease import holders
from benchmarks.storage.paths import Paths, write_atomically
from benchmarks.sweeps.composition import plain
from benchmarks.sweeps.copying import resolved
from benchmarks.sweeps.objective import objective, objectives
from benchmarks.sweeps.remaining import duration
from benchmarks.sweeps.request import CellFailed, CellRefused
from benchmarks.sweeps.searching import SEARCH, note
from methods.errors import BadInput, one_line

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

MARKS = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "collapsed": "[yellow]↓[/]", "skipped": "[yellow]–[/]"}
PROGRESS = "SECATEURS_PROGRESS"  # environment variable: how many cells a sweep runs, and since when
ATTEMPTS = 2  # at a cell whose worker dies: another cell may be the cause, so the second attempt runs alone


@dataclass
class Rounds:
    """Launches cells with the launcher that the configuration of a sweep names, as often as it is called.

    Attributes:
        context: what Hydra gives a sweeper.
        task: what runs one cell.
        config: the configuration of the sweep, with Hydra's section.
        sweep: its name.
        renewed: for each cell that has a result and is run all the same, the stamp of the record to replace.
        total: how many cells there are to run.
        begun: number of jobs so far; Hydra numbers jobs across launches.
        since: when the first job began, in seconds since the epoch.
    """

    context: HydraContext
    task: TaskFunction
    config: DictConfig
    sweep: str
    renewed: Mapping[str, str] = field(default_factory=dict)
    total: int = 0
    begun: int = 0
    since: float = field(default_factory=time.time)

    def __call__(self, cells: Sequence[PlannedCell], wait: bool) -> tuple[str | None, dict[str, str]]:
        """Launch cells; return why the launcher stopped early, if it did, and faults that left no record, by key."""
        from hydra.core.plugins import Plugins

        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task, config=self.config
        )
        own = [f"_sweep={self.sweep}", f"_wait={str(wait).lower()}"]
        os.environ[PROGRESS] = f"{self.total} {self.since}"  # launchers start their workers with it
        try:
            words = [[*cell.overrides, *own, *self._replacing(cell)] for cell in cells]
            returns = launcher.launch(words, initial_job_idx=self.begun)
        except Exception as error:  # a worker that was killed takes the launcher with it
            return f"the launcher stopped: {one_line(f'{type(error).__name__}: {error}', 300)}", {}
        finally:
            self.begun += len(cells)
            os.environ.pop(PROGRESS, None)
        faults = {}
        for cell, result in zip(cells, returns, strict=False):
            fault = _fault(result)
            if isinstance(fault, KeyboardInterrupt):
                raise fault
            if isinstance(fault, CellRefused):
                faults[cell.key] = str(fault)
            elif fault is not None and not isinstance(fault, CellFailed):
                faults[cell.key] = one_line(f"{' '.join(cell.overrides)}: {type(fault).__name__}: {fault}", 400)
        return None, faults

    def _replacing(self, cell: PlannedCell) -> list[str]:
        return [f"++_replace={self.renewed[cell.key]}"] if cell.key in self.renewed else []


def _fault(result: JobReturn) -> BaseException | None:
    """What a job raised; reading its value makes Hydra raise this again, and print a line that is suppressed here."""
    with redirect_stderr(io.StringIO()):
        try:
            _ = result.return_value
        except BaseException as fault:
            return fault
    return None


def refuse_unwritable(paths: Paths) -> None:
    """Check, before any work, that records can be written.

    Raises:
        BadInput: they cannot.
    """
    probe = paths.runs / RUNNING / f".probe-{uuid.uuid4().hex}"
    write_atomically(probe, "")
    probe.unlink(missing_ok=True)


def launch(
    round_: Callable[[Sequence[PlannedCell], bool], tuple[str | None, dict[str, str]]],
    missing: Sequence[PlannedCell],
    paths: Paths,
    at_once: int | None = None,
) -> list[str]:
    """Run ``missing``; returns faults that left no record.

    Args:
        round_: launches cells once, see :class:`Rounds`.
        missing: the cells to run.
        paths: where their records go.
        at_once: how many cells a launcher gets at once (all).
    """
    store = Store.of(paths)
    before = store.find_all(cell.key for cell in missing)
    faults: list[str] = []
    died: Counter[str] = Counter()  # workers, by the cell that they were at
    size = at_once or max(len(missing), 1)
    lots = deque(list(missing[start : start + size]) for start in range(0, len(missing), size))
    elsewhere: list[PlannedCell] = []
    waited_for: set[str] | None = None
    while lots or elsewhere:
        if not lots:  # other processes are at all that is left
            if waited_for == {cell.key for cell in elsewhere}:
                break
            waited_for = {cell.key for cell in elsewhere}
            lots = deque([cell] for cell in elsewhere if died[cell.key])
            if together := [cell for cell in elsewhere if not died[cell.key]]:
                lots.append(together)
            elsewhere = []
        cells = lots.popleft()
        old = _leases(paths)
        stopped, faulty = round_(cells, waited_for is not None)
        faults += faulty.values()
        now = store.find_all(cell.key for cell in cells)
        without = [cell for cell in cells if now.get(cell.key) == before.get(cell.key) and cell.key not in faulty]
        if stopped is None:
            elsewhere += without
            continue
        taken = {Path(name).stem for name in _leases(paths) - old}
        going_on = {holder.name for holder in holders(paths.runs / RUNNING) if holder.alive}
        elsewhere += [cell for cell in without if cell.key in going_on]
        left = [cell for cell in without if cell.key not in going_on]
        begun = [cell for cell in left if cell.key in taken]
        rest = [cell for cell in left if cell.key not in taken]
        if len(rest) == len(cells):
            faults += [stopped] if stopped not in faults else []  # before any cell began: it would stop again
        elif rest:
            lots.append(rest)
        died.update(cell.key for cell in begun)
        lots += [[cell] for cell in begun if died[cell.key] < ATTEMPTS]
        gone = [cell for cell in begun if died[cell.key] == ATTEMPTS]
        faults += [f"{' '.join(cell.overrides)}: its worker died {ATTEMPTS} times; {stopped}" for cell in gone]
    return faults


def run_job(config: DictConfig) -> float | tuple[float, ...] | None:
    """One cell, as a launcher runs it: in this process, in a worker, or on another machine; returns its objective.

    Raises:
        CellFailed: it ended without a result.
        CellRefused: it ended without a record.
    """
    found = plain(config)
    names = objectives(found)
    search = os.environ.get(SEARCH)
    try:
        record = run_leased(resolved(found | ({"_sweep": search} if search else {})), place())
    except BadInput as error:
        if search:  # whose sweeper is not ours and says nothing of it
            output_console().print(f"✗ {error}", markup=False, highlight=False)
        raise CellRefused(str(error)) from error
    if record is None:
        return None
    if search:
        note(Paths.of(found["paths"]), search, record)
    if record.status == "failed":
        raise CellFailed(f"{record.key}: {record.reason}")
    return objective(record, names)


def place() -> tuple[int, int, float] | None:
    """Which cell of its sweep this job is, of how many, and when the sweep began, in seconds since 1970.

    None outside a sweep of several cells, and for a cell that is tried again after the others.
    """
    from hydra.core.hydra_config import HydraConfig

    total, _, since = os.environ.get(PROGRESS, "").partition(" ")
    if not since or int(total) < 2:
        return None
    number = int(HydraConfig.get().job.num) + 1
    return (number, int(total), float(since)) if number <= int(total) else None


def progress(at: tuple[int, int, float] | None) -> tuple[str, str]:
    """The text before and after the status line of a finished cell: ``[3/8] `` and the time left at that pace."""
    if at is None:
        return "", ""
    number, total, since = at
    left = (time.time() - since) / number * (total - number)
    return f"[{number}/{total}] ", f", about {duration(left)} left" if number < total else ""


def run_leased(config: dict[str, Any], at: tuple[int, int, float] | None = None) -> Record | None:
    """Run the cell that ``config`` describes, unless it is finished or running; None if another process is running it.

    Args:
        config: the configuration of the cell.
        at: which cell of its sweep it is, see :func:`place`.

    Raises:
        BadInput: it is refused, and leaves no record.
    """
    from benchmarks.cells.cell import run
    from benchmarks.records.cell_fields import title
    from benchmarks.records.keys import cell_key
    from benchmarks.storage.lease import Busy, Lost, first_come

    paths, key = Paths.of(config["paths"]), cell_key(config)
    store = Store.of(paths)
    before = store.find(key)

    def finished() -> bool:
        record = store.find(key)
        changed = record is not None and record != before  # tried again meanwhile, perhaps failed again
        return changed or is_complete(record, paths, bool(config.get("save")), config.get("_replace"))

    wait = config.get("_wait", True)
    try:
        with first_come(paths.runs / RUNNING, finished, title(config), name=key, wait=wait) as mine:
            if mine:
                store.remove_leftovers(key)
            record = run(config, mine.held) if mine else store.find(key)
    except (Busy, Lost):
        return None
    if mine and record is not None:
        before_it, after_it = progress(at)
        # rich takes no bracket with a number for a style, but escape it explicitly
        output_console().print(before_it.replace("[", "\\[") + status_line(record) + f"[dim]{after_it}[/]")
    return record


def is_complete(record: Record | None, paths: Paths, save: bool, replaced: str | None = None) -> bool:
    """Whether a cell with this record needs no run: it has a result, and the network if that is to be saved.

    The record with the stamp ``replaced`` is one that is to be replaced.
    """
    if record is None or not record.finished or (replaced is not None and record.stamp == replaced):
        return False
    if not save:
        return True
    from benchmarks.models.saved import lacks_network

    return not lacks_network(record, paths.results)


def _leases(paths: Paths) -> set[str]:
    """Names, ``KEY.NUMBER``, of all lease files of cells that have no result yet."""
    return {path.name for path in (paths.runs / RUNNING).glob("[!.]*.*")}


def status_line(record: Record) -> str:
    """One line about a cell: what it was and how it ended."""
    from rich.markup import escape

    from benchmarks.boards.labels import label

    budget = ", ".join(f"{kind}={value:g}" for kind, value in record.budget.requested.items())
    name = f"{record.dataset}/{record.model} {label(record)} {budget} seed {record.seed}"
    stages = record.metrics
    if record.status != "done" or not (stages.dense and stages.pruned and stages.tuned):
        return f"{MARKS[record.status]} {escape(name)}: {record.status}: {escape(one_line(record.reason or '', 200))}"
    quantity = "accuracy" if stages.dense.accuracy is not None else "loss"
    figures = [getattr(stage, quantity) for stage in (stages.dense, stages.pruned, stages.tuned)]
    # percentages, as on the boards
    unit, scale, decimals = (" %", 100, 2) if quantity == "accuracy" else ("", 1, 4)
    dense, pruned, tuned = (f"{figure * scale:.{decimals}f}{unit}" if figure is not None else "–" for figure in figures)
    notes = [*filter(None, [record.budget.note]), *(record.warnings or [])]
    note = f" [dim]({escape('; '.join(notes))})[/]" if notes else ""
    return f"{MARKS['done']} {escape(name)}: {quantity} {dense} dense, {pruned} pruned, {tuned} tuned{note}"
