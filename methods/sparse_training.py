"""Base of schedules that contain a training, which makes the network sparse or prepares it for pruning.

A :class:`SparseTraining` is a hook of the common trainer and can be combined with any selection, allocation and
compensation. Its caller (``benchmarks.cells.during_training``) calls :meth:`~SparseTraining.prepare` before that
training and :meth:`~SparseTraining.finish` after it; the result is fine-tuned like every pruned network. If the pruner
is used without training, such a schedule is one-shot.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import nn

from methods.budgets.budget import Budget
from methods.hooks import TrainingHook
from methods.layers.statistics import Calibration
from methods.pruned import Pruned
from methods.pruner import Pruner
from methods.schedule import Schedule


@dataclass(frozen=True)
class Length:
    """The length of a training: its epochs, and the updates in each."""

    epochs: int
    per_epoch: int

    @property
    def steps(self) -> int:
        """The number of all updates."""
        return self.epochs * self.per_epoch


class SparseTraining(TrainingHook, Schedule):
    """Base class of these schedules.

    Attributes:
        start: which network is trained: ``init``, as it was initialised, or ``trained``, the dense network.
        training: which recipe of the trainer this training follows, ``train`` or ``finetune``.
        does: a description of what happens during the training.
        log: a row per change of the network, for the record's curve.
    """

    start: str = "init"
    training: str = "train"
    does: str
    log: list[dict[str, Any]]

    @abstractmethod
    def prepare(
        self, pruner: Pruner, model: nn.Module, calibration: Calibration, budget: Budget, length: Length, seed: int
    ) -> None:
        """Called once before the training, and again before an interrupted cell resumes.

        Args:
            pruner: the method's parts, this schedule among them.
            model: the network that is trained; may be changed in place.
            calibration: samples that the parts may look at.
            budget: what the network may cost in the end.
            length: of the training.
            seed: root of the method's random streams.
        """
        raise NotImplementedError

    @abstractmethod
    def finish(self, pruner: Pruner, model: nn.Module, calibration: Calibration, budget: Budget, seed: int) -> Pruned:
        """The pruned network, made from the trained one; arguments as for :meth:`prepare`."""
        raise NotImplementedError
