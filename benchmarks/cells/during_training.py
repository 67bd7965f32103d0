"""Methods that train and prune at once, from scratch: their schedule is a hook of the common trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from benchmarks.data.splits import Data
from benchmarks.models import build
from benchmarks.training.optimisation import TrainerSettings
from benchmarks.training.trainer import fit
from methods.budgets.budget import Budget, NodeCost
from methods.errors import Collapsed
from methods.hooks import TrainingSchedule
from methods.network.graph import NetworkGraph
from methods.pruned import Pruned, little_kept
from methods.seeds import derive_seed


def prunes_while_training(schedule: object) -> TypeGuard[TrainingSchedule]:
    """Whether ``schedule`` visits the training loop instead of pruning a trained network."""
    return isinstance(schedule, TrainingSchedule)


def train_and_prune(
    schedule: TrainingSchedule, config: Mapping[str, Any], data: Data, budget: Budget, folder: Path
) -> tuple[Pruned, list[dict[str, Any]]]:
    """Train a fresh network with the settings of the dense one while ``schedule`` prunes it.

    Args:
        schedule: what prunes.
        config: the cell's configuration.
        data: what to train on.
        budget: what the network may cost in the end.
        folder: for the trainer's checkpoint.

    Returns:
        The network, and a row per removal.

    Raises:
        Collapsed: if the training ends without numbers.
    """
    seed = config["seed"]
    settings = TrainerSettings.from_config(config["trainer"]["train"], "trainer.train")
    model = build(config["model"], data.shape, data.classes, seed)
    example = data.train.to_inputs(slice(0, 2))
    graph = NetworkGraph(model, example)
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
