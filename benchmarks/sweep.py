"""A sweep: plan its cells, skip what is done, launch the rest, and say honestly how it ended."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.composition import Composer, Memory, expand, key_of, plain
from benchmarks.keys import cell_key
from benchmarks.manifest import Manifest, PlannedCell, write_manifest
from benchmarks.paths import REPOSITORY, Paths
from benchmarks.records import Record, Store
from benchmarks.tables import one_line, output_console
from methods.errors import BadInput

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from benchmarks.commandline import Request

CONF = Path(os.environ.get("SECATEURS_CONF", REPOSITORY / "conf"))
MARKS = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "collapsed": "[yellow]↓[/]", "skipped": "[yellow]–[/]"}


@dataclass(frozen=True)
class Plan:
    """The cells of a call, and the words that are common to all of them."""

    name: str
    words: list[str]
    cells: list[PlannedCell]
    paths: Paths
    save: bool = False


def sweep(request: Request) -> int:
    """Carry out ``request``; returns the exit code: 0 if every cell has a result."""
    console = output_console()
    composer = Composer(CONF)
    if request.show:
        from omegaconf import OmegaConf

        sys.stdout.write(OmegaConf.to_yaml(OmegaConf.create(composer.cell(request.words))))
        return 0
    plan = make_plan(composer, request)
    store = Store.of(plan.paths)
    missing = [cell for cell in plan.cells if not _finished(store, cell.key, plan)]
    if request.dry_run:
        _list_cells(console, plan, store)
        return 0
    here = len(plan.cells) - len(missing)
    console.print(f"{len(plan.cells)} cell{'s' * (len(plan.cells) != 1)}: {here} done already, {len(missing)} to run")
    faults = run_missing(composer, plan, request)
    return _conclude(console, plan, store, faults)


def run_missing(composer: Composer, plan: Plan, request: Request) -> list[str]:
    """Run the cells of ``plan`` that have no result yet; returns faults that left no record."""
    store = Store.of(plan.paths)
    missing = [cell for cell in plan.cells if not _finished(store, cell.key)]
    if not missing:
        return []
    _check(composer, missing)
    if request.multirun:
        write_manifest(plan.paths.runs, Manifest(name=plan.name, command=command_line(request), cells=plan.cells))
    return _launch(composer, plan, missing)


def make_plan(composer: Composer, request: Request) -> Plan:
    """All cells that the words ask for, each with its key; unknown names are refused here, before anything runs."""
    combinations = expand(request.words) if request.multirun else [list(request.words)]
    if not request.multirun and len(expand(request.words)) > 1:
        raise BadInput("several values for one key need a sweep; type python run.py -m " + " ".join(request.words))
    swept = {key_of(word) for words in combinations[:1] for word in words}
    base = [word for word in request.words if word in combinations[0]]
    if request.multirun:
        master = composer.master(base)
        own = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items() if key not in swept]
        if own:  # an experiment's own grid; what the user typed wins
            combinations = expand([*own, *request.words])
        common = plain(master)
    else:
        common = composer.cell(base)
    paths = Paths.of(common["paths"])
    memory = Memory(composer.folder, paths.cache / "plan.json")
    cells = [_planned(composer, words, memory) for words in combinations]
    memory.save()
    unique = list({cell.key: cell for cell in cells}.values())
    experiment = next((word.partition("=")[2] for word in request.words if key_of(word) == "experiment"), None)
    digest = hashlib.sha256("".join(sorted(cell.key for cell in unique)).encode()).hexdigest()[:8]
    return Plan(experiment or f"sweep-{digest}", base, unique, paths, bool(common.get("save")))


def _planned(composer: Composer, words: Sequence[str], memory: Memory) -> PlannedCell:
    name = " ".join(word for word in words if not key_of(word).startswith("hydra"))
    if name not in memory.entries:
        from benchmarks.heading import heading

        own = [word for word in words if not key_of(word).startswith("hydra")]
        config = composer.cell(own)
        head = heading(config, cell_key(config))
        budget = head["budget"]["requested"]
        kept = {key: head[key] for key in ("key", "dataset", "model", "method", "seed")}
        memory.entries[name] = {**kept, "budget": budget, "overrides": own}
    return PlannedCell(**memory.entries[name])


def _finished(store: Store, key: str, plan: Plan) -> bool:
    record = store.find(key)
    if record is None or not plan.save:
        return record is not None and record.finished
    from benchmarks.saved_network import lacks_network

    return record.finished and not lacks_network(record, plan.paths.results)


def _check(composer: Composer, cells: Sequence[PlannedCell]) -> None:
    """Refuse nonsense in any cell before the first one runs."""
    from benchmarks.parts import check

    for cell in cells:
        check(composer.cell(cell.overrides))


def _launch(composer: Composer, plan: Plan, cells: Sequence[PlannedCell]) -> list[str]:
    """Run the cells with Hydra's launcher; returns faults that left no record."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.plugins import Plugins
    from hydra.core.utils import JobStatus
    from hydra.types import HydraContext

    master = composer.master([*plan.words, f"_sweep={plan.name}"])
    HydraConfig.instance().set_config(master)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(config_loader=composer.hydra.config_loader, callbacks=Callbacks(master)),
        task_function=task,
        config=master,
    )
    jobs = [[*cell.overrides, f"_sweep={plan.name}"] for cell in cells]
    try:
        returns = launcher.launch(jobs, initial_job_idx=0)
    except KeyboardInterrupt:
        raise
    except Exception as error:  # a worker that was killed takes the launcher with it
        return [f"the launcher stopped: {one_line(f'{type(error).__name__}: {error}', 300)}"]
    faults = []
    for cell, result in zip(cells, returns, strict=False):
        if result.status == JobStatus.FAILED:
            error = result._return_value
            if isinstance(error, KeyboardInterrupt):
                raise error
            faults.append(f"{' '.join(cell.overrides)}: {type(error).__name__}: {error}")
    return faults


def task(config: DictConfig) -> None:
    """One cell, as a launcher runs it: in this process, in a worker, or on another machine."""
    from benchmarks.cell import run

    console = output_console()
    record = run(plain(config))
    console.print(status_line(record))


def status_line(record: Record) -> str:
    """One line on one cell: what it was and how it ended."""
    from rich.markup import escape

    from benchmarks.labels import label

    budget = ", ".join(f"{kind}={value:g}" for kind, value in record.budget.requested.items())
    name = f"{record.dataset}/{record.model} {label(record)} {budget} seed {record.seed}"
    stages = record.metrics
    if record.status != "done" or not (stages.dense and stages.pruned and stages.tuned):
        return f"{MARKS[record.status]} {escape(name)}: {record.status}: {escape(one_line(record.reason or '', 200))}"
    quantity = "accuracy" if stages.dense.accuracy is not None else "loss"
    figures = [getattr(stage, quantity) for stage in (stages.dense, stages.pruned, stages.tuned)]
    dense, pruned, tuned = (f"{figure:.4f}" if figure is not None else "–" for figure in figures)
    note = f" [dim]({escape(record.budget.note)})[/]" if record.budget.note else ""
    return f"{MARKS['done']} {escape(name)}: {quantity} {dense} dense, {pruned} pruned, {tuned} tuned{note}"


def _list_cells(console: Console, plan: Plan, store: Store) -> None:
    for cell in plan.cells:
        record = store.find(cell.key)
        state = record.status if record else "missing"
        console.print(f"{state:<10}{cell.key}  {' '.join(cell.overrides)}", markup=False, highlight=False)
    console.print(f"{len(plan.cells)} cells of {plan.name}", highlight=False)


def _conclude(console: Console, plan: Plan, store: Store, faults: Sequence[str]) -> int:
    """Print the boards of these cells and what went wrong."""
    from benchmarks.leaderboard import render

    records = {cell.key: store.find(cell.key) for cell in plan.cells}
    if any(records.values()):
        render(store, plan.paths.boards, console, only=frozenset(records))
        console.print(f"boards: {plan.paths.boards}/leaderboard.md, .csv", highlight=False)
    failed = [record for record in records.values() if record is not None and record.status == "failed"]
    absent = [cell for cell in plan.cells if records[cell.key] is None]
    for record in failed:
        console.print(status_line(record))
    for fault in faults:
        console.print(f"[red]✗[/] {one_line(fault, 400)}", highlight=False)
    if absent:
        console.print(f"[red]{len(absent)} of {len(plan.cells)} cells have no record[/]; the same command runs them")
    if failed:
        console.print(
            f"[red]{len(failed)} of {len(plan.cells)} cells failed[/]; the same command tries them again. "
            f"Details: the records under {plan.paths.runs}",
            highlight=False,
        )
    return 1 if failed or absent or faults else 0


def command_line(request: Request) -> str:
    """The command that asks for this sweep, for the record."""
    return " ".join(["python run.py", *(["-m"] if request.multirun else []), *request.words])
