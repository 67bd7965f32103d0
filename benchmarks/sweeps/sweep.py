"""A sweep: plan its cells, skip what is done, launch the rest, and say honestly how it ended."""

from __future__ import annotations

import hashlib
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from benchmarks.records.heading import title
from benchmarks.records.keys import cell_key, variant_key
from benchmarks.records.manifest import RUNNING, Manifest, PlannedCell, write_manifest
from benchmarks.records.store import Store
from benchmarks.settings.home import CONF
from benchmarks.storage.console import one_line, output_console
from benchmarks.storage.lease import sweep_up
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.composition import Composer, Memory, plain
from benchmarks.sweeps.copying import control_words
from benchmarks.sweeps.launching import is_complete, launch, run_leased, status_line
from benchmarks.sweeps.rerun import asked_for, difference, rerun
from benchmarks.sweeps.words import expand, key_of
from methods.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.sweeps.request import Request

LONG_AGO = 3600.0  # seconds; no file takes as long to write
SHOWN = 20  # missing cells that are named one by one


@dataclass(frozen=True)
class Plan:
    """The cells of a call, and the words that are common to all of them.

    Attributes:
        variants: for each cell's key, what it shares with the cells that differ from it in nothing but the seed.
    """

    name: str
    words: list[str]
    cells: list[PlannedCell]
    variants: dict[str, str]
    paths: Paths
    save: bool = False
    controls: bool = False


def sweep(request: Request) -> int:
    """Carry out ``request``; returns the exit code: 0 if every cell has a result."""
    console = output_console()
    composer = Composer(CONF)
    if request.show:
        from omegaconf import OmegaConf

        if asked_for(request.words):
            raise BadInput("--cfg shows what words ask for; a record's own configuration is under config in its file")
        cells = expand(request.words)
        if len(cells) > 1:
            example = f"python run.py {shlex.join(cells[0])} --cfg"
            raise BadInput(f"--cfg shows one cell, these are {len(cells)}\ntype for instance {example}")
        sys.stdout.write(OmegaConf.to_yaml(OmegaConf.create(composer.strictly(cells[0]))))
        return 0
    if asked_for(request.words):
        return _from_record(console, composer, request)
    plan = make_plan(composer, request)
    store = Store.of(plan.paths)
    if request.dry_run:
        _list_cells(console, plan, store)
        return 0
    missing = sound_missing(composer, plan)
    here = len(plan.cells) - len(missing)
    console.print(f"{len(plan.cells)} cell{'s' * (len(plan.cells) != 1)}: {here} done already, {len(missing)} to run")
    if not request.multirun and any(key_of(word) == "experiment" for word in request.words):
        console.print(
            f"one cell in the surroundings of {plan.name}; its grid: python run.py -m +experiment={plan.name}"
        )
    faults = run_missing(composer, plan, request, missing)
    if plan.controls:
        plan = with_controls(composer, plan, store)
        missing = sound_missing(composer, plan)
        console.print(f"{len(plan.cells)} cells with their controls: {len(missing)} to run")
        faults += run_missing(composer, plan, request, missing)
    return _conclude(console, plan, store, faults)


def _from_record(console: Console, composer: Composer, request: Request) -> int:
    """Run the cell of a record again and say how the two results compare."""
    theirs, config = rerun(composer, request.words)
    if request.dry_run:
        console.print(f"would run {title(config)}", markup=False)
        return 0
    there = Store.of(Paths.of(config["paths"])).find(cell_key(config))
    found = run_leased(config)
    assert found is not None  # it was waited for
    if found == there:
        console.print(status_line(found))
    console.print(difference(theirs, found), markup=False)
    return 1 if found.status == "failed" else 0


def run_missing(
    composer: Composer, plan: Plan, request: Request, missing: Sequence[PlannedCell] | None = None
) -> list[str]:
    """Run the cells of ``plan`` that have no result yet; returns faults that left no record."""
    missing = sound_missing(composer, plan) if missing is None else missing
    if not missing:
        return []
    if request.multirun:
        write_manifest(plan.paths.runs, Manifest(name=plan.name, command=command_line(request), cells=plan.cells))
    return launch(composer, plan.words, plan.name, missing, plan.paths)


def make_plan(composer: Composer, request: Request) -> Plan:
    """All cells that the words ask for, each with its key; unknown names are refused here, before anything runs."""
    combinations = expand(request.words)
    if not request.multirun and len(combinations) > 1:
        raise BadInput("several values for one key need a sweep; type python run.py -m " + " ".join(request.words))
    several = [word for word in request.words if key_of(word) == "experiment" and len(expand([word])) > 1]
    if several:
        first = several[0].partition("=")[2].partition(",")[0]
        raise BadInput(
            f"{several[0]}: each experiment brings a grid of its own, so one at a time; "
            f"type python run.py -m +experiment={first}"
        )
    swept = {key_of(word) for words in combinations[:1] for word in words}
    base = [word for word in request.words if len(expand([word])) == 1]
    if request.multirun:
        master = composer.master(base)
        own = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items() if key not in swept]
        if own:  # an experiment's own grid; what the user typed wins
            combinations = expand([*own, *request.words])
        common = plain(master)
    else:
        common = composer.cell(combinations[0])
    paths = Paths.of(common["paths"])
    memory = Memory(composer, paths.cache / "plan.json")
    planned = [_planned(composer, words, memory) for words in combinations]
    memory.save()
    unique = list({cell.key: cell for cell, _ in planned}.values())
    experiment = next((word.partition("=")[2] for word in request.words if key_of(word) == "experiment"), None)
    digest = hashlib.sha256("".join(sorted(cell.key for cell in unique)).encode()).hexdigest()[:8]
    variants = {cell.key: variant for cell, variant in planned}
    save, controls = bool(common.get("save")), bool(common.get("controls"))
    return Plan(experiment or f"sweep-{digest}", base, unique, variants, paths, save, controls)


def with_controls(composer: Composer, plan: Plan, store: Store) -> Plan:
    """``plan`` and, for each of its cells that is done, random and magnitude selection with the same layer-wise counts.

    They can only be planned after their donors: what a control is depends on the counts that its donor ended with.
    """
    records = store.find_all(cell.key for cell in plan.cells)
    donors = [(cell.overrides, records[cell.key]) for cell in plan.cells if cell.key in records]
    memory = Memory(composer, plan.paths.cache / "plan.json")
    controls = [_planned(composer, words, memory) for words in control_words(donors)]
    cells = {cell.key: cell for cell in (*plan.cells, *(cell for cell, _ in controls))}
    variants = plan.variants | {cell.key: variant for cell, variant in controls}
    return replace(plan, cells=list(cells.values()), variants=variants)


def _planned(composer: Composer, words: Sequence[str], memory: Memory) -> tuple[PlannedCell, str]:
    """The cell that ``words`` ask for, and its variant."""
    name = " ".join(word for word in words if not key_of(word).startswith("hydra"))
    copied = any(key_of(word) == "allocation.record" for word in words)  # its key is that of counts that may change
    if copied or name not in memory.entries:
        from benchmarks.records.heading import heading

        own = [word for word in words if not key_of(word).startswith("hydra")]
        config = composer.cell(own)
        head = heading(config, cell_key(config))
        budget = head["budget"]["requested"]
        kept = {key: head[key] for key in ("key", "dataset", "model", "method", "seed")}
        entry = {**kept, "budget": budget, "overrides": own}
        cell, variant = _sound(entry), variant_key(config)
        memory.entries[name] = {"cell": entry, "variant": variant}
        return cell, variant
    return PlannedCell(**memory.entries[name]["cell"]), memory.entries[name]["variant"]


def _sound(entry: Mapping[str, Any]) -> PlannedCell:
    """The cell, or what is wrong with the values that every cell has."""
    try:
        return PlannedCell(**entry)
    except ValidationError as error:
        fault = error.errors()[0]
        key, whole = ".".join(map(str, fault["loc"])), fault["type"].startswith("int")
        example = f"{key}={1 if whole else 0.5 if key == 'budget.keep' else 2}"
        expected = "a whole number" if whole else "a number"
        if fault["type"] in ("less_than", "greater_than_equal"):
            expected, example = "a whole number of 64 bits", f"{key}=1"
        raise BadInput(f"{key}={fault['input']} is not {expected}; type for instance {example}") from None


def missing_cells(plan: Plan) -> list[PlannedCell]:
    """The cells of ``plan`` that have no result yet."""
    found = Store.of(plan.paths).find_all(cell.key for cell in plan.cells)
    return [cell for cell in plan.cells if not is_complete(found.get(cell.key), plan.paths, plan.save)]


def sound_missing(composer: Composer, plan: Plan) -> list[PlannedCell]:
    """What :func:`missing_cells` gives, after a look at one of each variant: nonsense is refused before any runs."""
    from benchmarks.cells.parts import check

    missing = missing_cells(plan)
    firsts: dict[str, PlannedCell] = {}
    for cell in missing:
        firsts.setdefault(plan.variants[cell.key], cell)
    for cell in firsts.values():
        check(composer.cell(cell.overrides))
    return missing


def _list_cells(console: Console, plan: Plan, store: Store) -> None:
    found, reviewed = store.find_all(cell.key for cell in plan.cells), store.reviewed()
    for cell in plan.cells:
        record = found.get(cell.key)
        state = record.status if record else "reviewed" if cell.key in reviewed else "missing"
        console.print(f"{state:<10}{cell.key}  {' '.join(cell.overrides)}", markup=False, highlight=False)
    console.print(f"{len(plan.cells)} cell{'s' * (len(plan.cells) != 1)} of {plan.name}", highlight=False)
    if any(cell.key in reviewed and cell.key not in found for cell in plan.cells):
        console.print("reviewed: its result came with the project; a sweep computes it anew here", highlight=False)


def _conclude(console: Console, plan: Plan, store: Store, faults: Sequence[str]) -> int:
    """Print the boards of these cells and what went wrong."""
    from benchmarks.boards.rendering import render

    _sweep_up(plan.paths.boards)
    records = store.find_all(cell.key for cell in plan.cells)
    with suppress(OSError):  # results that cannot be written can still be shown
        sweep_up(plan.paths.runs / RUNNING, {key for key, record in records.items() if record.finished})
    if records:
        render(store, plan.paths.boards, console, only=frozenset(cell.key for cell in plan.cells))
        console.print(f"boards: {plan.paths.boards}/leaderboard.md, .csv", highlight=False)
    failed = [record for record in records.values() if record.status == "failed"]
    absent = [cell for cell in plan.cells if cell.key not in records]
    for record in failed:
        console.print(status_line(record))
    hints = dict.fromkeys("\n".join((record.reason or "").splitlines()[1:]) for record in failed)
    for hint in filter(None, hints):  # what to type, once for all cells that failed alike
        console.print(hint, markup=False, highlight=False)
    without = Counter(record.status for record in records.values() if record.status in ("collapsed", "skipped"))
    if without:
        said = " and ".join(f"{number} {status}" for status, number in sorted(without.items()))
        console.print(f"[yellow]{said}[/] of {len(plan.cells)}: a result, but no network that could be ranked")
    for fault in faults:
        console.print(f"[red]✗[/] {one_line(fault, 400)}", highlight=False)
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
    return 1 if failed or absent or faults else 0


def _sweep_up(folder: Path) -> None:
    """Remove what killed writers left there long ago; what is younger may be somebody's who is writing now."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            if abs(time.time() - path.stat().st_mtime) > LONG_AGO:
                path.unlink()


def command_line(request: Request) -> str:
    """The command that asks for this sweep, for the record."""
    return shlex.join(["python", "run.py", *(["-m"] if request.multirun else []), *request.words])
