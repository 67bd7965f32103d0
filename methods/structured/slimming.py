"""Network slimming: prune channels whose batch-norm scales were made small by training with an L1 penalty.

Liu, Li, Shen, Huang, Yan and Zhang, "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017.
The network is trained from scratch with

    loss + lambda sum_gamma |gamma|                                                            (equation 1)

over the scales gamma of all batch norms; channels with small |gamma| are then pruned by one threshold over all layers
(``allocation=global``), and the rest is fine-tuned. Here the gradient of |gamma| at 0 is 0. Where several batch norms
scale a node's channels, their scales add up (our extension); a group without a batch norm has no such score.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.budgets.budget import Budget
from methods.errors import BadInput, Skipped
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration
from methods.pruned import Pruned
from methods.pruner import Pruner
from methods.selection import Selection
from methods.sparse_training import Length, SparseTraining

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class ScaleSelection(Selection[NodeLayer]):
    """Keeps the nodes with the largest batch-norm scales."""

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) sum of |gamma| over the batch norms and channels of each node.

        Raises:
            Skipped: if no batch norm scales the nodes.
        """
        if not layer.scales:
            raise Skipped(
                f"{layer.name}: no batch norm scales its nodes, and network slimming scores nothing else; "
                "use another method for this network"
            )
        return torch.stack([scales.abs().sum(1) for scales in layer.scales.values()]).sum(0)


class ScalePenalty(SparseTraining):
    """Trains from scratch with an L1 penalty on all batch-norm scales; then prunes at once.

    Args:
        strength: lambda; the paper takes 1e-4 for VGG and 1e-5 for ResNet and DenseNet.
    """

    does = "trains from scratch with a penalty on batch-norm scales, then prunes"

    def __init__(self, strength: float = 1e-4) -> None:
        if not strength > 0:
            raise BadInput(f"schedule.strength={strength:g} is not positive; expected a weight: type 1e-4")
        self.strength = strength
        self.log = []

    def prepare(
        self, pruner: Pruner, model: nn.Module, calibration: Calibration, budget: Budget, length: Length, seed: int
    ) -> None:
        """Check that there is anything to penalise; see :class:`methods.sparse_training.SparseTraining`.

        Raises:
            Skipped: if the network has no batch norm with scales.
        """
        if not _scales(model):
            raise Skipped("this network has no batch norm with scales, which network slimming trains to be small")

    def on_step_loss(self, model: nn.Module, x: Tensor, y: Tensor, loss: Tensor, step: int) -> Tensor:
        """``loss`` plus lambda times the sum of |gamma|."""
        return loss + self.strength * torch.stack([scale.abs().sum() for scale in _scales(model)]).sum()

    def on_epoch(self, model: nn.Module, optimizer: Optimizer, epoch: int) -> bool:
        """Return True, so that weights of earlier epochs are not used: the penalty needs the whole training to act."""
        return True

    def finish(self, pruner: Pruner, model: nn.Module, calibration: Calibration, budget: Budget, seed: int) -> Pruned:
        """The trained network, pruned by the method's parts in one step."""
        return pruner.prune(model, calibration, budget, seed)


def _scales(model: nn.Module) -> list[nn.Parameter]:
    return [module.weight for module in model.modules() if isinstance(module, NORMS) and module.affine]
