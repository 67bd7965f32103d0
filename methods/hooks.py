"""Hooks for methods that prune *during* training: the trainer calls them, a method overrides those it needs."""

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from methods.budgets.budget import Budget
from methods.network.graph import NetworkGraph
from methods.schedule import Schedule


class TrainingHook:
    """Base class of hooks of the training loop. Each of its functions does nothing unless a subclass overrides it.

    What the hook must remember across an interruption goes through ``state`` and ``restore``: after a restart the
    trainer first lets the hook bring the network into the shape it had, then loads the weights into it.
    """

    def on_step_loss(self, model: nn.Module, x: Tensor, y: Tensor, loss: Tensor, step: int) -> Tensor:
        """The loss to differentiate, for instance ``loss`` plus a sparsity penalty."""
        return loss

    def before_step(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Called between the backward pass and the optimizer's step; may read and change the gradients."""

    def after_step(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Called after the optimizer's step, for instance for a proximal step on the weights."""

    def on_epoch(self, model: nn.Module, optimizer: Optimizer, epoch: int) -> bool:
        """Called after the last step of ``epoch`` (from 0), before validation; may remove units or zero weights.

        Returns:
            True if the network's size or sparsity changed. The optimizer is then rebuilt (parameters that are still the
            same objects keep their momentum) and the best weights of earlier epochs, which belong to another network,
            are forgotten.
        """
        return False

    def state(self) -> dict[str, Any]:
        """What to keep in the checkpoint: tensors, and values that JSON can hold."""
        return {}

    def restore(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Take back ``state`` and give ``model`` the structure that it had when ``state`` was made."""


class TrainingSchedule(TrainingHook, Schedule):
    """A schedule that prunes while the network trains from scratch, as the benchmark uses it.

    If the pruner is used without training, such a schedule is one-shot.

    Attributes:
        method: name of the only method that uses this schedule, because the schedule itself selects, allocates and
            compensates; None if it can be combined with the parts of any method.
        widths: nodes left by group, once training has ended.
        log: one row per removal, for the record's curve; ``note`` of the last one becomes the record's.
    """

    method: str | None = None
    widths: dict[str, int]
    log: list[dict[str, Any]]

    def graph_of(self, model: nn.Module, example: Tensor) -> NetworkGraph:
        """The groups of nodes of a network that the schedule prunes; others are left alone, with the reason."""
        return NetworkGraph(model, example)

    @abstractmethod
    def begin(self, model: nn.Module, example: Tensor, budget: Budget, epochs: int, seed: int = 0) -> None:
        """Prepare for the training, at whose end the budget must be met; called once before it.

        Args:
            model: the untrained network.
            example: a batch of inputs, for tracing.
            budget: what the network may cost in the end.
            epochs: length of the training.
            seed: root of the method's random streams.
        """
        raise NotImplementedError
