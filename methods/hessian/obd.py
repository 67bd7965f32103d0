"""Optimal Brain Damage (LeCun, Denker & Solla, NIPS 1989).

At a minimum of the training loss, and with its Hessian taken to be diagonal, zeroing weight q costs

    dL_q = 1/2 h_q w_q^2        (in units of the loss)

Here h is the diagonal of the Fisher: the mean of squared single-sample gradients, which needs no second backward pass.
With ``labels: sampled`` it estimates the diagonal of the generalised Gauss-Newton matrix, the paper's choice of h; with
``true`` it is the empirical Fisher. Nothing is done to the survivors; the paper retrains and repeats.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from methods.layers.gradients import Samples, fisher_diagonal
from methods.layers.seen import EdgeLayer
from methods.selection import Selection


def obd_saliency(weight: Tensor, curvature: Tensor) -> Tensor:
    """1/2 h w^2 for each weight, in units of the loss; ``curvature`` is the Hessian's diagonal."""
    return 0.5 * curvature * weight.square()


class OBDSelection(Selection[EdgeLayer]):
    """Keeps the weights whose removal costs most under a diagonal Fisher.

    Args:
        samples: number of single-sample gradients; None takes the whole calibration set.
        labels: ``sampled`` (Gauss-Newton, the paper's h) or ``true`` (empirical Fisher).
        memory_gb: bound on the memory of the gradients in flight.
    """

    additive = True

    def __init__(self, samples: int | None = None, labels: str = "sampled", memory_gb: float = 4.0) -> None:
        self.settings = Samples(samples, labels, memory_gb)

    def scores(self, layer: EdgeLayer) -> Tensor:
        """(out, d) predicted increase of the loss."""
        layers: Sequence[EdgeLayer] = layer.shared.get("layers", [layer])
        key = ("Fisher diagonal", tuple(each.name for each in layers), self.settings)
        if key not in layer.shared:
            names = [each.name for each in layers]
            layer.shared[key] = fisher_diagonal(layer.model, names, layer.calibration, self.settings)
        return obd_saliency(layer.weight, layer.shared[key][layer.name])

    def report(self, layer: EdgeLayer, kept: Tensor) -> dict[str, float]:
        """The increase of the loss that the diagonal model predicts for the layer."""
        return {"predicted_increase": float(self.scores(layer)[layer.live & ~kept].sum())}
