"""Carry out a call inside Hydra: plan its cells, skip finished ones, launch the rest, and report how they ended.

Hydra calls :func:`sweep` through its plug-in point for sweepers (``-m``), and :func:`task` for every job: for each cell
that a launcher was given, and for the only one of a call without ``-m``.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from benchmarks.records.cell_fields import title
from benchmarks.records.keys import cell_key
from benchmarks.records.manifest import Manifest, PlannedCell, write_manifest
from benchmarks.records.schema import Record
from benchmarks.records.store import Store
from benchmarks.settings.home import CONF
from benchmarks.storage.console import output_console
from benchmarks.storage.lease import lease_seconds
from benchmarks.storage.paths import Paths, write_atomically
from benchmarks.sweeps.composition import Composer, plain
from benchmarks.sweeps.concluding import conclude, list_cells, log_board, outcome_of
from benchmarks.sweeps.copying import resolved
from benchmarks.sweeps.launching import Rounds, launch, refuse_unwritable, run_job, run_leased, status_line
from benchmarks.sweeps.objective import objective, objectives
from benchmarks.sweeps.planning import (
    OF_THE_CALL,
    Plan,
    experiment_of,
    make_plan,
    plan_one,
    records_of,
    sound_missing,
    with_controls,
)
from benchmarks.sweeps.request import Call, CellFailed, Outcome, Request, current_call, errors_as_the_user_wants
from benchmarks.sweeps.rerun import asked_for, difference, rerun
from benchmarks.sweeps.words import key_of
from methods.errors import BadInput

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

Run = Callable[[Plan, Sequence[PlannedCell]], list[str]]  # cells of a plan; returns faults that left no record


class Sweeper(Protocol):
    """What Hydra passes to our sweeper."""

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig
    max_batch_size: int | None


def task(config: DictConfig) -> float | tuple[float, ...] | None:
    """What Hydra runs: one cell; returns its objective.

    Raises:
        CellFailed: the cell has no result; its record says why.
    """
    if HydraConfig.get().mode == RunMode.RUN:
        return only(config)
    return run_job(config)


def sweep(sweeper: Sweeper, words: Sequence[str]) -> list[Record]:
    """Carry out a sweep over the cells that ``words`` ask for; their records, in order.

    Raises:
        BadInput: the words cannot be read, or mean nothing.
    """
    config = sweeper.config
    call = current_call() or Call(Request([]))
    words = [word for word in words if key_of(word) not in OF_THE_CALL]
    with errors_as_the_user_wants():
        HydraConfig.instance().set_config(config)  # for ${hydra:...} in what is planned
        composer = Composer.of_application(CONF, config)
        request = replace(call.request, words=words, multirun=True, dry_run=bool(config.get("dry_run")), flags=[])
        if asked_for(words):
            call.outcome = _from_record(composer, request, call)
            return call.outcome.records
        objectives(plain(config))
        plan = make_plan(composer, request, config)
        typed = [*composer.own, *words]

        def run(plan: Plan, missing: Sequence[PlannedCell]) -> list[str]:
            if request.cells is None:
                command = shlex.join(["python", "run.py", "-m", *typed])
                write_manifest(plan.paths.runs, Manifest(name=plan.name, command=command, cells=plan.cells))
                _save_as_hydra_does(config)
            hands = (sweeper.hydra_context, sweeper.task_function, config)
            rounds = Rounds(*hands, plan.name, plan.renewed, len(missing))
            return launch(rounds, missing, plan.paths, sweeper.max_batch_size)

        call.outcome = _carry_out(composer, plan, run, request.dry_run, call)
    return call.outcome.records


def only(config: DictConfig) -> float | tuple[float, ...] | None:
    """The only cell of a call without ``-m``, which Hydra runs in this process; returns its objective.

    Raises:
        CellFailed: it has no result.
        SystemExit: it was refused; the call knows why. Hydra would write a line of its own for any other exception.
    """
    call = current_call() or Call(Request([]))
    hydra = HydraConfig.get()
    with errors_as_the_user_wants():
        try:
            words = [word for word in hydra.overrides.task if key_of(word) not in OF_THE_CALL]
            composer = Composer(CONF, hydra.job.config_name, list(hydra.overrides.hydra), running=True)
            if asked_for(words):
                call.outcome = _from_record(composer, Request(words, dry_run=bool(config.get("dry_run"))), call)
            else:
                call.outcome = _one_cell(composer, words, config, call)
        except (BadInput, OSError) as error:
            call.error = error
            raise SystemExit(2) from error
    records = call.outcome.records
    if call.outcome.code:
        raise CellFailed("; ".join(f"{record.key}: {record.reason}" for record in records if not record.finished))
    return objective(records[0], objectives(plain(config))) if records else None


def _one_cell(composer: Composer, words: Sequence[str], config: DictConfig, call: Call) -> Outcome:
    found = resolved(plain(config))
    objectives(found)
    plan = plan_one(words, found)

    def run(plan: Plan, missing: Sequence[PlannedCell]) -> list[str]:
        faults = []
        for cell in missing:
            own = found if cell.key == cell_key(found) else composer.cell(cell.overrides)  # a control
            try:
                run_leased({**own, "_sweep": plan.name})
            except BadInput as error:
                faults.append(str(error))
        return faults

    return _carry_out(composer, plan, run, bool(found.get("dry_run")), call, found)


def _carry_out(
    composer: Composer, plan: Plan, run: Run, dry_run: bool, call: Call, only: dict[str, object] | None = None
) -> Outcome:
    """Run the cells of ``plan`` that have no result yet, and their controls where they are wanted; say how it ended."""
    console = output_console()
    found = records_of(plan)
    missing = sound_missing(composer, plan, found, only)
    if dry_run:
        list_cells(console, plan, found)
        return Outcome(0, plan.cells)
    here = len(plan.cells) - len(missing)
    console.print(f"{len(plan.cells)} cell{'s' * (len(plan.cells) != 1)}: {here} done already, {len(missing)} to run")
    if only is not None and experiment_of(plan.words):
        console.print(
            f"one cell in the surroundings of {plan.name}; its grid: python run.py -m +experiment={plan.name}"
        )
    lease_seconds()  # an invalid value is refused before any work
    call.launched = True
    faults = _run_missing(run, plan, missing)
    ran = bool(missing)
    if plan.controls:
        plan = with_controls(composer, plan, Store.of(plan.paths))
        found = records_of(plan)
        missing = sound_missing(composer, plan, found)
        console.print(f"{len(plan.cells)} cells with their controls: {len(missing)} to run")
        faults += _run_missing(run, plan, missing)
    if ran or missing:
        found = records_of(plan)
    if not call.request.concluded:
        return outcome_of(plan, faults, found)
    outcome = conclude(console, plan, faults, found)
    if (ran or missing) and len(plan.cells) > 1:  # last, since a service may be slow
        log_board(plan, found, composer.cell(plan.cells[0].overrides)["track"])
    return outcome


def _run_missing(run: Run, plan: Plan, missing: Sequence[PlannedCell]) -> list[str]:
    """Run ``missing``; returns faults that left no record, a full disk among them, so that the lost cells are named."""
    if not missing:
        return []
    try:
        refuse_unwritable(plan.paths)
        return run(plan, missing)
    except OSError as error:
        return [str(error)]


def _from_record(composer: Composer, request: Request, call: Call) -> Outcome:
    """Run the cell of a record again and say how the two results compare."""
    console = output_console()
    theirs, config = rerun(composer, request.words)
    if request.dry_run:
        console.print(f"would run {title(config)}", markup=False)
        return Outcome(0)
    there = Store.of(Paths.of(config["paths"])).find(cell_key(config))
    call.launched = True
    found = run_leased(config)
    assert found is not None  # it was waited for
    if found == there:
        console.print(status_line(found))
    console.print(difference(theirs, found), markup=False)
    return Outcome(1 if found.status == "failed" else 0, records=[found])


def _save_as_hydra_does(config: DictConfig) -> None:
    """Save the sweep's configuration where Hydra's basic sweeper does: ``multirun.yaml`` in ``hydra.sweep.dir``."""
    from omegaconf import OmegaConf

    write_atomically(Path(config.hydra.sweep.dir) / "multirun.yaml", OmegaConf.to_yaml(config))
