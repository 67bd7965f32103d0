"""Change masks while the network trains: what SET, RigL and movement pruning have in common.

The trainer keeps parameters, the hook keeps their masks. Between the backward pass and the optimizer's step gradients
are dense, even those of weights that are zero now, which is what such methods look at; then the gradients of masked
weights are cleared, so that no step moves them. After the step, masked weights and their optimizer state are set to
zero again, and at some steps the masks change. After the last change the training continues with fixed masks; weights
from before it are no candidates for the best epoch, since they belong to another network.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.budgets.budget import Budget, EdgeCost
from methods.errors import BadInput
from methods.layers.statistics import Calibration
from methods.layers.views import edge_layers, live_weights, without_edges
from methods.pruned import Pruned
from methods.pruner import Pruner
from methods.sparse_training import Length, SparseTraining
from methods.unstructured.n_m import NM


class MaskTraining(SparseTraining):
    """Base of these methods: a subclass says when masks change (:meth:`due`) and how (:meth:`renew`).

    Attributes:
        masks: parameter name -> (shape of the parameter) boolean, which weights are there now.
        length: of the training.
        seed: root of the random streams.
    """

    def __init__(self) -> None:
        self.log = []
        self.masks: dict[str, Tensor] = {}
        self.length, self.seed = Length(1, 1), 0
        self.note: str | None = None
        self._moved: int | None = None  # weights that have come in this epoch; None where no mask has changed

    def prepare(
        self, pruner: Pruner, model: nn.Module, calibration: Calibration, budget: Budget, length: Length, seed: int
    ) -> None:
        """Take the masks that the method's parts choose for the network as it is; see :class:`SparseTraining`."""
        self.require_edges(pruner)
        self.length, self.seed = length, seed
        first = pruner.prune(model, calibration, budget, seed)
        model.load_state_dict(first.model.state_dict())
        self.masks, self.note = {name: mask.clone() for name, mask in first.masks.items()}, first.note

    def require_edges(self, pruner: Pruner) -> None:
        """Refuse selections that do not mask single weights, and n:m patterns, which changes would break."""
        if isinstance(pruner.allocation, NM):
            raise BadInput(
                "masks that change while the network trains keep no pattern n:m; type allocation=erdos_renyi, or "
                "schedule=one_shot"
            )
        if pruner.selection.unit != "edge":
            raise BadInput(
                f"this schedule changes masks of single weights, but {type(pruner.selection).__name__} removes "
                f"{pruner.selection.unit} units\ntype selection.unit=edge, or schedule=one_shot"
            )

    @abstractmethod
    def due(self, step: int) -> bool:
        """Whether the masks change at a step, from 0."""
        raise NotImplementedError

    @abstractmethod
    def renew(self, model: nn.Module, optimizer: Optimizer, step: int) -> dict[str, Tensor]:
        """New masks; the values of weights that come back are set here."""
        raise NotImplementedError

    def observe(self, model: nn.Module, step: int) -> None:
        """Look at the dense gradients before they are masked."""

    def before_step(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Look at dense gradients, then clear those of masked weights."""
        self.observe(model, step)
        for parameter, mask in self._masked(model):
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Change the masks where that is due; masked weights and their optimizer state are zero."""
        if self.due(step):
            before, self.masks = self.masks, self.renew(model, optimizer, step)
            came = sum(int((self.masks[name].to(mask.device) & ~mask).sum()) for name, mask in before.items())
            self._moved = (self._moved or 0) + came
        for parameter, mask in self._masked(model):
            parameter.mul_(mask)
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.mul_(mask)

    def on_epoch(self, model: nn.Module, optimizer: Optimizer, epoch: int) -> bool:
        """Whether the masks have changed in this epoch."""
        if self._moved is None:
            return False
        self.log.append({"epoch": epoch + 1, "live": self.live(), "grown": self._moved})
        self._moved = None
        return True

    def live(self) -> int:
        """Number of weights that are live now, in the layers with masks."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    def _masked(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        named = dict(model.named_parameters())
        return [(named[name], mask.to(named[name].device)) for name, mask in self.masks.items()]

    def finish(self, pruner: Pruner, model: nn.Module, calibration: Calibration, budget: Budget, seed: int) -> Pruned:
        """The trained network with its masks, and what they cost."""
        example = calibration.inputs[:2]
        names = edge_layers(model, example)
        cost = EdgeCost(model, example, names)
        kept = live_weights(cost.sizes, self.masks)
        layers = [{"name": name, "units": cost.sizes[name], "kept": kept[name]} for name in names]
        achieved = cost(kept).achieved(cost(cost.sizes))
        with torch.no_grad():
            for parameter, mask in self._masked(model):
                parameter.mul_(mask)
        result = Pruned(model, "edge", masks=dict(self.masks), layers=layers, achieved=achieved, note=self.note)
        result.left_alone = without_edges(model, names)
        return result

    def state(self) -> dict[str, Any]:
        """Masks and log."""
        return {f"mask|{name}": mask for name, mask in self.masks.items()} | {"log": self.log}

    def restore(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Take back :meth:`state`; the structure of the network is as it was."""
        if state:
            self.log = list(state["log"])
            self.masks = {key.partition("|")[2]: value for key, value in state.items() if key.startswith("mask|")}


def without_smallest(live: Tensor, weight: Tensor, count: int) -> Tensor:
    """``live`` without its ``count`` weights of the smallest magnitude; the tensors have the same shape."""
    kept = live.clone().flatten()
    kept[weight.abs().masked_fill(~live, torch.inf).flatten().sort(stable=True).indices[:count]] = False
    return kept.view_as(live)


def with_largest(kept: Tensor, growth: Tensor, count: int) -> Tensor:
    """``kept`` and the ``count`` others of the largest ``growth``, for instance some that were just dropped."""
    grown = kept.clone().flatten()
    order = growth.flatten().masked_fill(grown, -torch.inf).sort(descending=True, stable=True).indices
    grown[order[:count]] = True
    return grown.view_as(kept)
