"""SiPP: rank single weights by the largest share that they have in any sum of their output unit.

Baykal, Liebenwein, Gilitschenski, Feldman and Rus, "SiPPing Neural Networks: Sensitivity-informed Provable Pruning of
Neural Networks" (arXiv 1910.05422). The sensitivity of a weight is the share of w_ij a_j(x) in the positive, or the
negative, part of what its output unit sums up, averaged over output positions, at the sample where it is largest
(:mod:`methods.layers.sensitivity`). Deterministic SiPP keeps the largest sensitivities of all layers
(``allocation=global``): the sensitivities that are left out bound the relative error of each unit, up to a factor.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from methods.errors import BadInput
from methods.layers.seen import EdgeLayer
from methods.layers.sensitivity import sensitivities
from methods.selection import Selection


class SiPPSelection(Selection[EdgeLayer]):
    """Keeps the weights of the largest sensitivity.

    Args:
        samples: of the calibration set, over which the largest share is taken.
    """

    def __init__(self, samples: int = 256) -> None:
        if samples < 1:
            raise BadInput(f"selection.samples={samples} is not a number of samples; expected 1 or more: type 256")
        self.samples = samples

    def scores(self, layer: EdgeLayer) -> Tensor:
        """(out, d) sensitivities in [0, 1]; those of weights pruned earlier are 0."""

        def compute() -> Tensor:
            data = layer.calibration
            data = replace(data, inputs=data.inputs[: self.samples], labels=data.labels[: self.samples])
            return sensitivities(layer.model, layer.name, data, "mean")[0]

        return layer.once(("SiPP", layer.name, self.samples), compute)

    def report(self, layer: EdgeLayer, kept: Tensor) -> dict[str, float]:
        """The largest sum of a unit's removed sensitivities, which bounds its relative error."""
        gone = self.scores(layer) * (layer.live & ~kept)
        return {"sensitivity_removed": float(gone.sum(1).max())}
