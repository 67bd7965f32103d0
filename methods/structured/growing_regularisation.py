"""GReg-1 first chooses what to remove and then pushes it to zero with a growing penalty.

Wang, Qin, Zhang and Fu, "Neural Pruning via Growing Regularization", ICLR 2021. In the trained network the filters of
the smallest L1 norm are chosen (here by any selection). While training continues, their weights get an L2 penalty

    loss + lambda_t / 2  sum of w^2 over what is to go

whose factor grows in equal steps up to a ceiling, where it stays for a while; only then are they removed. The authors
add 1e-4 to lambda every 10 iterations up to 1, a hundred thousand iterations in all; here the same ceiling is reached
within a part of the training, whose length the recipe says. Nodes are penalised by their incoming weights, as
published; edges by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.allocation import Copied
from methods.budgets.budget import Budget, Count
from methods.errors import BadInput
from methods.layers.seen import Layer, NodeLayer
from methods.layers.statistics import Calibration
from methods.network.graph import NodeGroup
from methods.network.kinds.registry import kind_of, matrix_of
from methods.pruned import Pruned
from methods.pruner import Pruner
from methods.selection import AnySelection, Selection
from methods.sparse_training import Length, SparseTraining


class _Chosen(Selection[Any]):
    """The choice made before the training: indices by group of nodes, or masks (out, d) by layer."""

    def __init__(self, chooser: AnySelection, kept: Mapping[str, Tensor]) -> None:
        self.chooser, self.kept = chooser, kept
        self.unit, self.order = chooser.unit, chooser.order

    def leaves_alone(self, group: NodeGroup) -> str | None:
        """Leave alone what the original selection leaves alone."""
        return self.chooser.leaves_alone(group)

    def select(self, layer: Layer, k: Count) -> Tensor:
        """Return the choice that was made before the training."""
        return self.kept[layer.name]

    def ridge(self, layer: NodeLayer, kept: Tensor) -> Tensor:
        """Return the ridge of the original selection."""
        return self.chooser.ridge(layer, kept)


class GrowingRegularisation(SparseTraining):
    """Continues training the dense network with a growing penalty on the units that are to go; then removes them.

    Args:
        ceiling: lambda at the end of the growth.
        every: steps between two increases.
        growth: fraction of the training in which lambda grows; for the rest it stays at the ceiling.
    """

    start = "trained"
    training = "finetune"
    does = "goes on training with a growing penalty on what is to go, then prunes"

    def __init__(self, ceiling: float = 1.0, every: int = 10, growth: float = 0.8) -> None:
        if not ceiling > 0 or every < 1 or not 0 < growth <= 1:
            raise BadInput(
                f"schedule.ceiling={ceiling:g}, every={every} and growth={growth:g}: expected a positive ceiling, a "
                "number of steps, a fraction in (0, 1]\ntype schedule.ceiling=1 schedule.every=10 schedule.growth=0.8"
            )
        self.ceiling, self.every, self.growth = ceiling, every, growth
        self.steps = 1
        self.log = []
        self.goes: dict[str, Tensor] = {}

    def prepare(
        self, pruner: Pruner, model: nn.Module, calibration: Calibration, budget: Budget, length: Length, seed: int
    ) -> None:
        """Choose the units that are to be removed; see :class:`methods.sparse_training.SparseTraining`."""
        first = pruner.prune(model, calibration, budget, seed)
        self.steps, self.note, self.achieved = length.steps, first.note, first.achieved
        self.counts = {layer["name"]: layer["kept"] for layer in first.layers}
        self.kept: dict[str, Tensor] = {}
        if first.unit == "edge":
            self.goes = {name: ~mask for name, mask in first.masks.items()}
            for name in self.counts:
                module, mask = model.get_submodule(name), first.masks[f"{name}.weight"]
                self.kept[name] = kind_of(module).as_matrix(mask).flatten(1)
            return
        if pruner.selection.unit != "node":
            raise BadInput(
                f"{type(pruner.selection).__name__} splits layers anew, so that nothing is left to be penalised\n"
                "type schedule=one_shot, or choose method=magnitude"
            )
        self.kept, self.goes = first.kept, {}
        for group in pruner.graph_of(model, calibration.inputs).groups:
            gone = torch.ones(group.size, dtype=torch.bool)
            gone[self.kept[group.name].cpu()] = False
            for path, rows in zip(group.writers, group.rows, strict=True):
                module = model.get_submodule(path)
                mask = torch.zeros_like(matrix_of(module), dtype=torch.bool)
                mask[rows[gone].flatten().to(mask.device)] = True
                self.goes[f"{path}.weight"] = kind_of(module).stored_like(module, mask)

    def factor(self, step: int) -> float:
        """Lambda at a step, from 0: it grows by the same amount every ``every`` steps."""
        increases = max(1, int(self.growth * self.steps) // self.every)
        return self.ceiling * min(1.0, (step // self.every + 1) / increases)

    def on_step_loss(self, model: nn.Module, x: Tensor, y: Tensor, loss: Tensor, step: int) -> Tensor:
        """``loss`` plus the penalty."""
        squares = [
            (model.get_parameter(name) * mask.to(loss.device)).square().sum() for name, mask in self.goes.items()
        ]
        return loss + self.factor(step) / 2 * torch.stack(squares).sum()

    def on_epoch(self, model: nn.Module, optimizer: Optimizer, epoch: int) -> bool:
        """Return True, so that weights of earlier epochs are not used: the penalty needs the whole training to act."""
        return True

    def finish(self, pruner: Pruner, model: nn.Module, calibration: Calibration, budget: Budget, seed: int) -> Pruned:
        """The trained network without the chosen units, repaired by the method's compensation."""
        chosen: Selection[Any] = _Chosen(pruner.selection, self.kept)
        parts = Pruner(chosen, Copied(self.counts), pruner.compensation, prune_residual=pruner.prune_residual)
        result = parts.prune(model, calibration, budget, seed)
        result.note = self.note
        result.achieved = self.achieved  # weights that the penalty has made exactly zero count as dense ones
        return result
