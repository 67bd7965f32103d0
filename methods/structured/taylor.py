"""Score nodes by their first-order Taylor importance.

Molchanov, Mallya, Tyree, Frosio and Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019. Removing the
parameters S changes the loss E of a batch, to first order, by the sum of g_s w_s with g_s = dE / dw_s. As a joint
contribution of a whole unit (equation 9)

    I_S = (sum_{s in S} g_s w_s)^2,

averaged over batches. S are the weights that make the unit; or, with ``gates``, there is one parameter per unit: a gate
z = 1 that the unit's output is multiplied with, whose importance is (dE / dz)^2. Every reader takes the output in
linearly, so that dE / dz is the sum of g w over the weights with which the unit is *read*.

The paper places gates behind batch norms; here they stand where the unit is read, behind its activation, which is the
same number for ReLU. The authors accumulate over mini-batches of the training; here over those of the calibration set.
Scores are the square root of the mean: the same order, in units of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.errors import BadInput
from methods.layers.gradients import mean_gradients
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration
from methods.selection import Selection


class TaylorSelection(Selection[NodeLayer]):
    """Keeps the nodes whose removal changes the loss most, to first order.

    Args:
        gates: True: one gate per node, at its output; False: the node's incoming weights, without biases.
        batch: samples whose gradients are averaged before the square is taken.
    """

    def __init__(self, gates: bool = False, batch: int = 32) -> None:
        if batch < 1:
            raise BadInput(f"selection.batch={batch} is not a number of samples; expected 1 or more: type 32")
        self.gates, self.batch = gates, batch
        self.single_units = not gates

    additive = True  # changes of the loss, to first order

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) root mean square over batches of the sum of gradient x weight, in units of the loss."""
        group = layer.group
        total = torch.zeros(layer.size, dtype=torch.float64, device=layer.incoming.device)
        batches = self._gradients(layer)
        for gradients in batches:
            if self.gates:
                slopes = [reader.weights(gradients[reader.name]) for reader in group.readers]
                joint = torch.stack([(w * g).sum((0, 2)) for w, g in zip(layer.outgoing, slopes, strict=True)]).sum(0)
            else:
                rows = [gradients[name][rows].flatten(1) for name, rows in zip(group.writers, group.rows, strict=True)]
                joint = (layer.incoming * torch.cat(rows, 1)).sum(1)
            total += joint**2
        return (total / len(batches)).sqrt()

    def _gradients(self, layer: NodeLayer) -> list[dict[str, Tensor]]:
        """For each batch the gradient of its mean loss in the weights of all layers that this step prunes."""
        layers: Sequence[NodeLayer] = layer.shared.get("layers", [layer])
        names = sorted({name for each in layers for name in (each.readers if self.gates else each.writers)})

        def compute() -> list[dict[str, Tensor]]:
            inputs, labels = layer.calibration.inputs, layer.calibration.labels
            parts = zip(inputs.split(self.batch), labels.split(self.batch), strict=True)
            return [mean_gradients(layer.model, names, Calibration(x, y, batch_size=len(x))) for x, y in parts]

        return layer.once(("gradients of batches", tuple(names), self.batch), compute)
