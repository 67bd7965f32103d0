"""What a method needs, by observation: prune a small network with other data and other labels, and compare.

Nothing is declared, so nothing can be declared wrongly. Data count as needed if other inputs lead to another
network, labels if other labels do, gradients if anything is propagated backward through the network.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from methods.budgets.budget import Budget
from methods.errors import Skipped
from methods.hooks import TrainingSchedule
from methods.layers.statistics import Calibration
from methods.pruner import Pruner
from methods.schedule import Schedule
from methods.sparse_training import SparseTraining
from secateurs.examples import calibration, make

NETWORKS = ("convolution", "batch_norm", "blocks", "chain")  # the first one that the method does not refuse
WEIGHTS = {"blocks": 9}  # seeds: the order of some random blocks is the same for all inputs
SAMPLES = 48
SHIFTS = (0.0, 3.0, -3.0)  # added to other inputs: scores of moderate inputs can rank all units alike
HALF = Budget("keep", 0.5)


@dataclass(frozen=True)
class Needs:
    """The inputs that a method uses to prune.

    Attributes:
        data: the pruned network depends on the calibration inputs.
        labels: it depends on their true labels.
        gradients: something is propagated backward through the network.
        training: in words, which training belongs to the method; None if it has only the usual fine-tuning.
    """

    data: bool
    labels: bool
    gradients: bool
    training: str | None


class _Backward(TorchDispatchMode):
    """Notices derivatives of a ReLU, which every gradient of the network has to pass through."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= func.name() == "aten::threshold_backward"
        return func(*args, **(kwargs or {}))


def needs_of(pruner: Pruner) -> Needs:
    """Prune half of a small network, up to five times, and see which inputs affect the result."""
    samples, others = calibration(SAMPLES), calibration(SAMPLES, seed=1)
    network = _suited(pruner, samples)
    calls: list[int] = []
    with _Backward() as watch:
        found = _pruned(pruner, network, samples, calls)
    inputs = (replace(samples, inputs=others.inputs + shift) for shift in SHIFTS)
    data = any(not _same(_pruned(pruner, network, other), found) for other in inputs)
    labels = not _same(_pruned(pruner, network, replace(samples, labels=others.labels)), found)
    return Needs(data, labels, watch.seen, training_of(pruner.schedule, between=bool(calls)))


def training_of(schedule: Schedule, between: bool) -> str | None:
    """Which training belongs to a schedule, and whether it was seen to train ``between`` its steps; None: none."""
    if isinstance(schedule, TrainingSchedule):
        return "prunes while the network trains from scratch"
    if isinstance(schedule, SparseTraining):
        return schedule.does
    if schedule.origin == "init":
        return "prunes the initialised network, then trains it in full"
    if schedule.rewind == "none":
        return "trains between its steps" if between else None
    source = {"init": "their initial values", "new": "other initial values"}
    values = source.get(str(schedule.rewind), f"their values after epoch {schedule.rewind}")
    return f"puts survivors back to {values} and trains them in full{', after each of its steps' if between else ''}"


def _suited(pruner: Pruner, samples: Calibration) -> str:
    for network in NETWORKS[:-1]:
        with suppress(Skipped):
            _pruned(pruner, network, samples)
            return network
    return NETWORKS[-1]


def _pruned(pruner: Pruner, network: str, samples: Calibration, calls: list[int] | None = None) -> nn.Module:
    def train(model: nn.Module, masks: Any, step: int) -> None:
        if calls is not None:
            calls.append(step)

    weights = WEIGHTS.get(network, 0)
    rewind = None if pruner.schedule.rewind == "none" else make(network, seed=weights + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of small samples and random weights, which are meant to be so here
        return pruner.prune(make(network, seed=weights), samples, HALF, seed=0, train=train, rewind=rewind).model


def _same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        return False
    return all(torch.equal(first[name], second[name]) for name in first)
