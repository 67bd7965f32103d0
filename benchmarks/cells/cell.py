"""Run one cell: one data set, one network, one method, one budget, one seed, one record."""

from __future__ import annotations

import copy
import json
import resource
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cells.chance import Chance
from benchmarks.cells.during_training import prunes_while_training, train_and_prune, train_sparsely
from benchmarks.cells.parts import build_pruner, check
from benchmarks.cells.preparation import calibrate, calibration_facts, trained_network
from benchmarks.cells.remarks import note_of, remarks
from benchmarks.cells.steps import States
from benchmarks.cells.tracker import Tracker, summary_of, tables_of, tracking
from benchmarks.cells.trials import Trial, search
from benchmarks.data.splits import Data, load
from benchmarks.measure.count import count
from benchmarks.measure.recalibration import batch_norms, recalibrated
from benchmarks.measure.size import measure_size
from benchmarks.models import build
from benchmarks.models.saved import lacks_network, network_folder, save_of_cell
from benchmarks.records.cell_fields import cell_fields, title
from benchmarks.records.code import FIELD, digest, targets_of
from benchmarks.records.fingerprint import fingerprint
from benchmarks.records.keys import cell_key
from benchmarks.records.schema import Record, short_traceback
from benchmarks.records.store import Store
from benchmarks.settings.base import checked
from benchmarks.settings.trainer import Distillation
from benchmarks.settings.tuning import trials_of, with_options
from benchmarks.storage.lease import Lost
from benchmarks.storage.paths import Paths
from benchmarks.training.distillation import Teacher
from benchmarks.training.loop import History
from benchmarks.training.optimisation import TrainerSettings
from benchmarks.training.scoring import evaluate
from benchmarks.training.trainer import fit
from methods.budgets.budget import Budget
from methods.errors import BadInput, Collapsed, Skipped
from methods.hooks import TrainingSchedule
from methods.pruned import Pruned
from methods.schedule import Schedule
from methods.seeds import derive_seed
from methods.sparse_training import SparseTraining


def run(config: Mapping[str, Any], holds: Callable[[], bool] | None = None) -> Record:
    """Run the cell that ``config`` (plain, resolved) describes, unless it already has a record; returns the record.

    A cell that does not end well is a record, too: ``collapsed`` or ``skipped``, which are results, or ``failed``
    with its traceback. An error in the command, or in a part of the user's own, says nothing about a method and
    leaves no record; what an earlier failure left of the cell is then removed, too.

    With ``_replace``, the stamp of a finished record, that record is made again. It stays until there is a new result.

    Args:
        config: the configuration of the cell.
        holds: whether this worker still holds the cell's lease; nothing is written where it does not.

    Raises:
        Lost: another worker took over the cell while this one ran it, and it has no result yet.
        BadInput: the cell is refused.
    """
    paths = Paths.of(config["paths"])
    store = Store.of(paths)
    key = cell_key(config)
    found = store.find(key)
    finished, replaced, there = False, None, False
    if found is not None and found.finished:
        finished, replaced = True, found.stamp if found.stamp == config.get("_replace") else None
        if not replaced and not (config.get("save") and lacks_network(found, paths.results)):
            return found
        there = not replaced  # only its network is missing: the record stays as it is
    head = cell_fields(config, key)
    try:
        with tracking(config["track"], title(config), config.get("_sweep"), config) as tracker:
            try:
                record = Record(**head | _pipeline(config, paths, key, tracker, holds))
            except Lost:
                raise
            except Exception as error:
                ending = _ending(error)
                if ending is None and not finished:
                    store.remove_failure(key, holds)
                elif ending is not None and not there and (not replaced or ending["status"] != "failed"):
                    store.write_result(Record(**head | ending, fingerprint=_fingerprint(config)), holds, replaced)
                raise
            if not there:
                store.write_result(record, holds, replaced)
            _summarise(tracker, record)
    except Lost:
        theirs = store.find(key)
        if theirs is None or not theirs.finished or (replaced and theirs == found):
            raise
        return theirs
    except Exception:
        ended = store.find(key)
        if ended is None or (finished and ended == found):
            raise
        return ended
    shutil.rmtree(paths.cache / "cells" / key, ignore_errors=True)
    return record


def _ending(error: Exception) -> dict[str, Any] | None:
    """Status, reason and traceback of a cell that did not end well; None where it is refused and leaves no record."""
    reason = str(error) or type(error).__name__
    if isinstance(error, Collapsed):
        return {"status": "collapsed", "reason": reason}
    if isinstance(error, Skipped):
        return {"status": "skipped", "reason": reason}
    if isinstance(error, BadInput):
        return None
    return {"status": "failed", "reason": f"{type(error).__name__}: {reason}", "traceback": short_traceback(error)}


def _fingerprint(config: Mapping[str, Any]) -> dict[str, Any]:
    return fingerprint(config["trainer"]["train"].get("precision")) | {FIELD: digest(targets_of(config))}


def _what_was_read(data: Data) -> dict[str, Any]:
    """The checksum of the data, and how many images of them were left out since they could not be decoded."""
    return {"data": data.checksum} | ({} if data.skipped is None else {"skipped_images": data.skipped})


@dataclass
class _Networks:
    """The networks that a cell compares; all are scored on the test split at the very end."""

    dense: nn.Module
    pruned: nn.Module
    recalibrated: nn.Module | None
    tuned: nn.Module


def _pipeline(
    config: Mapping[str, Any], paths: Paths, key: str, tracker: Tracker, holds: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Seed, data, dense network, prune, fine-tune, measure: the fields of a record that are results."""
    check(config)
    data = load(config["dataset"], config["seed"], paths.cache)
    trained = trained_network(config, data, paths)
    for row in trained.history.epochs:
        tracker.log({f"train/{name}": value for name, value in row.items()}, int(row["epoch"]))
    folder = paths.cache / "cells" / key
    attempt, tuned = _carried_out(config, data, trained.model, folder, tracker, len(trained.history.epochs))
    pruned, before_tuning, tuning = attempt.pruned, attempt.before, attempt.training
    collapsed, doubt = _collapsed(trained.model, pruned.model, data, tuning)
    pruned.warnings += filter(None, (tuning.setback, doubt))
    networks = _Networks(trained.model, before_tuning, _recalibrated(config, data, before_tuning), pruned.model)
    result: dict[str, Any] = {
        "status": "collapsed" if collapsed else "done",
        "reason": collapsed,
        "fingerprint": _fingerprint(config) | _what_was_read(data),
        "curve": attempt.curve() or None,
        "tuning": tuned,
        "history": {"train": trained.history.epochs, "finetune": tuning.epochs},
        "cost": {
            "dense_seconds": trained.seconds,
            "prune_seconds": pruned.seconds,
            "tune_seconds": tuning.seconds,
            "peak_memory_mb": _peak_memory_mb(),
            "calibration_samples": _calibration_size(config, data),
        },
    }
    result |= _found(pruned, cell_fields(config, key)["budget"]) | _speed_and_size(attempt.config, data, networks)
    if data.text is not None:
        texts = calibration_facts(data, calibrate(data, config["calibration"], config["seed"]))
        result |= {"version": 3, "calibration": texts, "characters_per_token": data.text.characters_per_token}
    if config.get("save"):
        if holds is not None and not holds():
            raise Lost(f"{key} is another worker's by now")
        save_of_cell(networks.tuned, config, data.shape, data.classes, network_folder(paths.results, key), data.tokens)
    result["metrics"] = {name: _measure(model, data) for name, model in vars(networks).items() if model is not None}
    if config.get("quantise"):
        result["quantised"] = _quantised(attempt.config, data, networks)
    result["warnings"] = [*pruned.warnings, *remarks(trained.model, networks.tuned, result["metrics"])] or None
    return _without_nonsense(result)


@dataclass
class _Attempt:
    """One run from the dense network to a pruned and trained one, and the configuration that was used for it."""

    config: Mapping[str, Any]
    pruned: Pruned
    states: States | list[dict[str, Any]]
    before: nn.Module
    training: History

    def curve(self) -> list[dict[str, Any]]:
        """What an iterative schedule passed through."""
        return self.states if isinstance(self.states, list) else self.states.finished(self.pruned, self.before)


def _carried_out(
    config: Mapping[str, Any], data: Data, dense: nn.Module, folder: Path, tracker: Tracker, epochs: int
) -> tuple[_Attempt, dict[str, Any] | None]:
    """Prune and fine-tune, as often as ``tune`` asks for; the best attempt, and an account of all if there are several.

    Each trial has its own checkpoints, so that an interrupted cell resumes where it was. ``epochs`` of the dense
    network's training are on the tracker already.
    """
    tune = config.get("tune")
    logged = [epochs]
    prunings: dict[str, tuple[Pruned, States | list[dict[str, Any]]]] = {}

    def attempt(trial: Trial) -> _Attempt:
        own = with_options(config, trial.options or {})
        place = folder / f"trial{trial.number}" if tune else folder
        schedule = build_pruner(own).schedule
        settings, first_epoch = _recipe(own, schedule, trial.rate)
        name = json.dumps(trial.options or {}, sort_keys=True)
        if name not in prunings:
            prunings[name] = _prune(own, data, dense, place, trial.rate)
        pruned, states = prunings[name]
        if tune and _trains_between(schedule):
            del prunings[name]  # the pruning depends on the rate
        elif tune:
            pruned = copy.deepcopy(pruned)
        before = copy.deepcopy(pruned.model)
        start = logged[0]

        def log(row: Mapping[str, float]) -> None:
            logged[0] = start + int(row["epoch"])
            tracker.log({f"finetune/{name}": value for name, value in row.items()}, logged[0])

        label = f"fine-tuning {title(config)}" + (f", trial {trial.number + 1} of {trials_of(config)}" if tune else "")
        seed, files = derive_seed(config["seed"], "finetune"), place / "finetune"
        options: dict[str, Any] = {"masks": pruned.masks, "checkpoint": files, "label": label}
        options["teacher"] = _teacher(own, dense)
        training = fit(pruned.model, data, settings, seed, **options, on_epoch=log, first_epoch=first_epoch)
        return _Attempt(own, pruned, states, before, training)

    if not tune:
        return attempt(Trial(0)), None
    return search(tune, attempt, lambda found: evaluate(found.pruned.model, data.validation))


def _trains_between(schedule: Schedule) -> bool:
    return prunes_while_training(schedule) or len(schedule.targets(Budget("keep", 0.5))) != 1


def _prune(
    config: Mapping[str, Any], data: Data, model: nn.Module, folder: Path, rate: float
) -> tuple[Pruned, States | list[dict[str, Any]]]:
    """The pruned network before its last fine-tuning, and what an iterative schedule passed through.

    An interrupted cell prunes again, which gives the same masks; the trainings that it had finished are read from their
    checkpoints in ``folder``, and the one that was cut short resumes where it was.
    """
    pruner = build_pruner(config)
    seed = config["seed"]
    settings, first_epoch = _recipe(config, pruner.schedule, rate)
    budget = Budget.parse(config["budget"])
    if isinstance(pruner.schedule, SparseTraining):
        return train_sparsely(pruner, config, data, model, folder, rate)
    if isinstance(pruner.schedule, TrainingSchedule):
        return train_and_prune(pruner.schedule, config, data, budget, folder)
    states, teacher = States(data, model), _teacher(config, model)

    def train(network: nn.Module, masks: Mapping[str, Tensor], step: int) -> None:
        before = states.score(network)
        own = derive_seed(seed, "step", step)
        files, label = folder / f"step{step}", f"step {step + 1}"
        options: dict[str, Any] = {"masks": masks, "checkpoint": files, "label": label, "teacher": teacher}
        fit(network, data, settings, own, **options, first_epoch=first_epoch)
        states.add(network, masks, before)

    calibration = calibrate(data, config["calibration"], seed)
    rewind = _rewind(config, data, pruner.schedule.rewind)
    if pruner.schedule.origin == "init":
        model = _rewind(config, data, "init") or model
    pruned = pruner.prune(model, calibration, budget, derive_seed(seed, "prune"), train, rewind)
    if config["measure"].get("theory"):
        from methods.theories.evaluation import TheoryEvaluation

        pruned.predictions += TheoryEvaluation(model, pruned, pruner, calibration).rows(
            lambda net: states.score(net).accuracy
        )
    return pruned, states


def _recalibrated(config: Mapping[str, Any], data: Data, pruned: nn.Module) -> nn.Module | None:
    """The network right after pruning with batch-norm statistics of its own activations; None without batch norms."""
    return recalibrated(pruned, calibrate(data, config["calibration"], config["seed"])) if batch_norms(pruned) else None


def _found(pruned: Pruned, budget: Mapping[str, Any]) -> dict[str, Any]:
    """The result of pruning, with remarks on it."""
    return {
        "unit": pruned.unit,
        "budget": {**budget, "achieved": pruned.achieved, "note": note_of(pruned.note, pruned.left_alone)},
        "layers": pruned.layers,
        "left_alone": [{"layer": path, "reason": reason} for path, reason in pruned.left_alone.items()] or None,
        "predictions": pruned.predictions or None,
    }


def _speed_and_size(config: Mapping[str, Any], data: Data, networks: _Networks) -> dict[str, Any]:
    """Sizes of the networks, and what else ``measure`` asks for; only the modules that this needs are imported."""
    found: dict[str, Any] = {}
    timing, batch = config["measure"].get("latency"), config["measure"].get("memory")
    if timing:
        from benchmarks.measure.latency import measure_latency

        found["latency"] = measure_latency(networks.dense, networks.pruned, _example(data), timing)
    found["size"] = {
        name: asdict(measure_size(model)) for name, model in (("dense", networks.dense), ("pruned", networks.tuned))
    }
    if batch:
        from benchmarks.measure.memory import measure_memory

        models = networks.dense, networks.pruned
        found["memory"] = measure_memory(*models, config, data.shape, data.classes, data.tokens)
    return found


def _quantised(config: Mapping[str, Any], data: Data, networks: _Networks) -> dict[str, Any]:
    """The dense and the tuned network in eight bits."""
    from benchmarks.measure.quantised import measure_quantised

    calibration = calibrate(data, config["calibration"], config["seed"])
    both = {"dense": networks.dense, "pruned": networks.tuned}
    return measure_quantised(both, calibration, data.test, _example(data), config["measure"].get("latency"))


def _recipe(config: Mapping[str, Any], schedule: Schedule, rate: float) -> tuple[TrainerSettings, int]:
    """The settings that a pruned network is trained with, and how many of its epochs the rewound weights already had.

    ``rate`` multiplies the recipe's learning rate.
    """
    section = schedule.recipe
    settings = TrainerSettings.from_config(config["trainer"][section], f"trainer.{section}")
    if rate != 1:
        settings = settings.model_copy(update={"learning_rate": settings.learning_rate * rate})
    return settings, schedule.first_epoch if section == "train" else 0


def _teacher(config: Mapping[str, Any], dense: nn.Module) -> Teacher | None:
    """The dense network as the teacher of all training after pruning, by whichever recipe; None without distillation.

    So all methods are taught alike, including those whose schedule asks for the full recipe.
    """
    asked = checked(Distillation, config["trainer"]["finetune"].get("distil") or {}, "trainer.finetune.distil").asked()
    return None if asked is None else Teacher(dense, *asked)


def _collapsed(dense: nn.Module, model: nn.Module, data: Data, tuning: History) -> tuple[str | None, str | None]:
    """Why the network has collapsed, and a note: its training broke off, or it is no better than guessing.

    Where the dense network is no better than guessing either, pruning has destroyed nothing; then a note says so.
    """
    if tuning.collapsed:
        return tuning.collapsed, None
    if not len(data.validation):
        return None, None
    chance = Chance.of(data.validation.targets)
    reason = chance.explains(evaluate(model, data.validation))
    if reason and chance.explains(evaluate(dense, data.validation)):
        return None, "neither the dense nor the pruned network is better than guessing"
    return reason, None


def _rewind(config: Mapping[str, Any], data: Data, point: str | int) -> nn.Module | None:
    """The network whose weights the remaining units take: as initialised, drawn again, or after some dense epochs."""
    if point == "none":
        return None
    own = derive_seed(config["seed"], "scratch") if point == "new" else config["seed"]
    model = build(config["model"], data.shape, data.classes, own, data.tokens)
    if point not in ("init", "new", 0):
        settings = TrainerSettings.from_config(config["trainer"]["train"], "trainer.train")

        def stop(row: Mapping[str, float]) -> None:
            if row["epoch"] >= int(point):
                raise StopIteration

        with suppress(StopIteration):
            fit(model, data, settings, config["seed"], label=f"to epoch {point}", on_epoch=stop)
    return model


def _calibration_size(config: Mapping[str, Any], data: Data) -> int:
    return min(config["calibration"]["samples"] or len(data.train), len(data.train))


def _example(data: Data) -> Tensor:
    """A batch of training samples, for computations that depend on nothing but their shape."""
    return data.train.to_inputs(torch.arange(min(len(data.train), 256)))


def _measure(model: nn.Module, data: Data) -> dict[str, Any]:
    return asdict(evaluate(model, data.test)) | asdict(count(model, _example(data)))


def _peak_memory_mb() -> float:
    """Largest resident memory of this process so far; kilobytes on Linux, bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _without_nonsense(result: dict[str, Any]) -> dict[str, Any]:
    """``collapsed`` where the pruned network's outputs are not finite."""
    tuned = result["metrics"]["tuned"]
    if result["status"] == "done" and not tuned["loss"] < float("inf"):
        result |= {"status": "collapsed", "reason": "the pruned network's loss is not finite"}
    return result


def _summarise(tracker: Tracker, record: Record) -> None:
    tracker.summary(summary_of(record))
    for name, rows in tables_of(record).items():
        tracker.table(name, rows)
