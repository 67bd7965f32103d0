"""Movement pruning keeps weights that training moves away from zero and removes those that it moves towards zero.

Sanh, Wolf and Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", NeurIPS 2020. While a trained network is
trained further, every weight has a score, whose gradient is given by the straight-through estimator,

    S_ij  =  - sum over steps of  dL/dW'_ij  W_ij,       W' = W * mask                           (equation 3)

up to the learning rate of the scores, which is constant here. The largest scores of a layer make the mask, and the
fraction that stays falls along the cubic curve of Zhu and Gupta (2017) between a beginning and an end of the training.
Masked weights keep their values, so that they can come back; their scores still change, since dL/dW' is dense.

Without training, S is computed over the calibration set with the weights as they are: - gradient x weight.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.budgets.budget import Budget, EdgeCost
from methods.compensation import Compensation
from methods.errors import BadInput
from methods.layers.seen import EdgeLayer
from methods.layers.statistics import Calibration
from methods.layers.views import edge_layers
from methods.network.kinds.registry import kind_of
from methods.pruned import Pruned
from methods.pruner import Pruner
from methods.pruning.checks import Parts
from methods.pruning.edges import prune_edges
from methods.selection import Selection
from methods.sparse_training import Length
from methods.unstructured.training_masks import MaskTraining


class MovementSelection(Selection[EdgeLayer]):
    """Keeps the weights that have moved, or would move, furthest away from zero."""

    def __init__(self) -> None:
        self.movements: dict[str, Tensor] | None = None

    def scores(self, layer: EdgeLayer) -> Tensor:
        """(out, d) accumulated movement; without training - gradient x weight of the mean loss."""
        if self.movements is None:
            return -layer.gradient * layer.weight
        return self.movements[layer.name]


class Movement(MaskTraining):
    """Continues training the dense network while its masks follow the movement of the weights.

    Args:
        every: steps between changes of the masks.
        begin: fraction of the training before the first change.
        end: fraction of the training after which the masks stay.
    """

    start = "trained"
    training = "finetune"
    does = "goes on training with masks that follow the movement of the weights"

    def __init__(self, every: int = 10, begin: float = 0.1, end: float = 0.7) -> None:
        if every < 1 or not 0 <= begin < end <= 1:
            raise BadInput(
                f"schedule.every={every}, begin={begin:g}, end={end:g}: expected a number of steps, 0 <= begin < end "
                "<= 1\ntype schedule.every=10 schedule.begin=0.1 schedule.end=0.7"
            )
        super().__init__()
        self.every, self.begin, self.end = every, begin, end
        self.scores: dict[str, Tensor] = {}
        self.latent: dict[str, Tensor] = {}

    def prepare(
        self, pruner: Pruner, model: nn.Module, calibration: Calibration, budget: Budget, length: Length, seed: int
    ) -> None:
        """Begin with all weights; see :class:`methods.sparse_training.SparseTraining`."""
        self.require_edges(pruner)
        if not isinstance(pruner.selection, MovementSelection):
            raise BadInput(
                f"schedule=movement has scores of its own, so that {type(pruner.selection).__name__} would do nothing\n"
                "type method=movement"
            )
        self.parts, self.calibration, self.budget = pruner, calibration, budget
        self.length, self.seed = length, seed
        self.names = edge_layers(model, calibration.inputs[:2])
        cost = EdgeCost(model, calibration.inputs[:2], self.names)
        self.dense = cost(cost.sizes)
        for name in self.names:
            weight = model.get_submodule(name).get_parameter("weight").detach()
            self.masks[f"{name}.weight"] = torch.ones_like(weight, dtype=torch.bool)
            self.scores[f"{name}.weight"] = torch.zeros_like(weight, dtype=torch.float64)
            self.latent[f"{name}.weight"] = weight.clone()

    @property
    def last(self) -> int:
        """The step of the last change."""
        return max(0, min(self.length.steps - 1, round(self.end * self.length.steps) - 1))

    def due(self, step: int) -> bool:
        """Every ``every`` steps from the beginning on, and at the last one."""
        return step == self.last or (self.begin * self.length.steps <= step < self.last and step % self.every == 0)

    def target(self, step: int) -> Budget:
        """The budget at a step, on the cubic curve from everything to what was asked for."""
        if step >= self.last:
            return self.budget
        first = self.begin * self.length.steps
        time = (step - first) / max(self.last - first, 1)
        return self.budget.at(self.budget.remaining + (1 - self.budget.remaining) * (1 - time) ** 3)

    def observe(self, model: nn.Module, step: int) -> None:
        """Add - gradient x weight, with the values that masked weights keep."""
        for name, mask in self.masks.items():
            parameter = model.get_parameter(name)
            assert parameter.grad is not None  # the loss depends on every layer that is called
            live = mask.to(parameter.device)
            weight = torch.where(live, parameter.detach(), self.latent[name].to(parameter))
            self.latent[name] = weight
            self.scores[name] = self.scores[name].to(parameter.device) - (parameter.grad.detach() * weight).double()

    def renew(self, model: nn.Module, optimizer: Optimizer, step: int) -> dict[str, Tensor]:
        """The masks of the largest scores, as many as the budget leaves now; what comes back has its old value."""
        parameters = {name: model.get_parameter(name) for name in self.masks}
        for name, parameter in parameters.items():
            live = self.masks[name].to(parameter.device)
            self.latent[name] = torch.where(live, parameter.detach(), self.latent[name].to(parameter))
        chooser = MovementSelection()
        chooser.movements = {
            name: kind_of(model.get_submodule(name)).as_matrix(self.scores[f"{name}.weight"]).flatten(1)
            for name in self.names
        }
        found = Pruned(copy.deepcopy(model), "edge")
        parts = Parts(chooser, self.parts.allocation, Compensation())
        _, _, self.note = prune_edges(
            parts, found, self._calibration(model), self.target(step), self.dense, f"{self.seed}/movement{step}", None
        )
        for name, parameter in parameters.items():
            parameter.copy_(self.latent[name])
        return found.masks

    def _calibration(self, model: nn.Module) -> Calibration:
        device = next(model.parameters()).device
        if self.calibration.inputs.device != device:
            given = self.calibration
            self.calibration = replace(given, inputs=given.inputs.to(device), labels=given.labels.to(device))
        return self.calibration

    def state(self) -> dict[str, Any]:
        """Masks, log, scores and the values of masked weights."""
        scores = {f"score|{name}": value for name, value in self.scores.items()}
        return super().state() | scores | {f"latent|{name}": value for name, value in self.latent.items()}

    def restore(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Take back :meth:`state`."""
        super().restore(model, state)
        for kind, kept in (("score|", self.scores), ("latent|", self.latent)):
            kept |= {key.removeprefix(kind): value for key, value in state.items() if key.startswith(kind)}
