"""Run methods that train during or before the pruning: their schedule is a hook of the trainer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.cells.preparation import calibrate
from benchmarks.data.splits import Data
from benchmarks.models import build
from benchmarks.training.optimisation import TrainerSettings
from benchmarks.training.trainer import fit
from methods.budgets.budget import Budget, NodeCost
from methods.errors import Collapsed
from methods.hooks import TrainingSchedule
from methods.pruned import Pruned, little_kept, warnings_of
from methods.pruner import Pruner
from methods.seeds import derive_seed
from methods.sparse_training import Length, SparseTraining


def prunes_while_training(schedule: object) -> bool:
    """Whether ``schedule`` hooks into a training that runs before there is a pruned network."""
    return isinstance(schedule, TrainingSchedule | SparseTraining)


def train_sparsely(
    pruner: Pruner, config: Mapping[str, Any], data: Data, dense: nn.Module, folder: Path, rate: float
) -> tuple[Pruned, list[dict[str, Any]]]:
    """Let the pruner's schedule train the initialised or the dense network, and prune the result.

    Args:
        pruner: its schedule is a :class:`methods.sparse_training.SparseTraining`.
        config: the cell's configuration.
        data: the data to train on.
        dense: the trained network; it stays as it is.
        folder: for the trainer's checkpoint.
        rate: multiplies the learning rate where the schedule's recipe is the one for fine-tuning.

    Returns:
        The network, and a row per change during the training.

    Raises:
        Collapsed: if the training ends without numbers.
    """
    schedule, seed = pruner.schedule, config["seed"]
    assert isinstance(schedule, SparseTraining)
    settings = TrainerSettings.from_config(config["trainer"][schedule.training], f"trainer.{schedule.training}")
    if schedule.training == "finetune":
        settings = settings.model_copy(update={"learning_rate": settings.learning_rate * rate, "include_start": None})
    fresh = schedule.start == "init"
    model = build(config["model"], data.shape, data.classes, seed, data.tokens) if fresh else copy.deepcopy(dense)
    calibration, budget = calibrate(data, config["calibration"], seed), Budget.parse(config["budget"])
    own = derive_seed(seed, "prune")
    length = Length(settings.epochs, settings.steps_per_epoch(len(data.train)))
    schedule.prepare(pruner, model, calibration, budget, length, own)
    name = config["method"]["name"]
    order = seed if fresh else derive_seed(seed, "sparse training")
    history = fit(model, data, settings, order, checkpoint=folder / "training", label=name, hooks=[schedule])
    if history.collapsed:
        raise Collapsed(f"training while pruning: {history.collapsed}")
    pruned = schedule.finish(pruner, model.eval(), calibration, budget, own)
    pruned.seconds += history.seconds
    pruned.warnings = warnings_of(model, pruned)
    return pruned, schedule.log


def train_and_prune(
    schedule: TrainingSchedule, config: Mapping[str, Any], data: Data, budget: Budget, folder: Path
) -> tuple[Pruned, list[dict[str, Any]]]:
    """Train a fresh network with the settings of the dense one while ``schedule`` prunes it.

    Args:
        schedule: what prunes.
        config: the cell's configuration.
        data: the data to train on.
        budget: what the network may cost in the end.
        folder: for the trainer's checkpoint.

    Returns:
        The network, and a row per removal.

    Raises:
        Collapsed: if the training ends without numbers.
    """
    seed = config["seed"]
    settings = TrainerSettings.from_config(config["trainer"]["train"], "trainer.train")
    model = build(config["model"], data.shape, data.classes, seed, data.tokens)
    example = data.train.to_inputs(slice(0, 2))
    graph = schedule.graph_of(model, example)
    groups = graph.groups
    cost = NodeCost(model, example, groups)
    schedule.begin(model, example, budget, settings.epochs, derive_seed(seed, "prune"))
    name = config["method"]["name"]
    history = fit(model, data, settings, seed, checkpoint=folder / "training", label=name, hooks=[schedule])
    if history.collapsed:
        raise Collapsed(f"training while pruning: {history.collapsed}")
    counts = {group.name: schedule.widths[group.name] for group in groups}
    achieved = cost(counts).achieved(cost(cost.sizes))
    layers = [{"name": group.name, "units": group.size, "kept": counts[group.name]} for group in groups]
    note = schedule.log[-1].get("note") if schedule.log else None
    pruned = Pruned(model, "node", layers=layers, achieved=achieved, note=note, seconds=history.seconds)
    pruned.left_alone, pruned.warnings = graph.left_alone, little_kept(layers)
    return pruned, schedule.log
