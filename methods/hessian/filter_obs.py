"""C-OBD and C-OBS: the saliency of a filter as the sum of the classic saliencies of its weights.

Baselines of Wang et al., "EigenDamage" (ICML 2019), section 2. W (out, d) with the bias as last column:

    C-OBD   cost_i = sum_j 1/2 F_(ij)(ij) w_ij^2,                      F_(ij)(ij) = E[g_ij^2] over per-sample gradients
    C-OBS   cost_i = sum_j 1/2 w_ij^2 / ([G^-1]_ii [A^-1]_jj)          the OBS saliency under F = G (x) A

C-OBS moves the other weights by the SUM of the updates for single weights, dW = -G^-1 T A^-1 with
T_ij = w_ij / ([G^-1]_ii [A^-1]_jj) for removed rows i and 0 elsewhere. This is not the OBS update of a set.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.curvature.kfac import Factors, factorable, fisher_diagonal, label_stream, require_factorable, weight_matrix
from methods.hessian.kronecker import KroneckerCompensation, KroneckerSelection, complement
from methods.layers.seen import NodeLayer
from methods.selection import Selection


def filter_obd_cost(weight: Tensor, diagonal: Tensor) -> Tensor:
    """(out,) 1/2 sum_j F_(ij)(ij) w_ij^2 for a weight and a Fisher diagonal of the same shape (out, d)."""
    return 0.5 * (diagonal * weight.square()).sum(1)


def filter_obs_cost(weight: Tensor, factors: Factors) -> Tensor:
    """(out,) sum over a row of single-weight OBS saliencies under G (x) A; both factors must be regular."""
    inputs, gradients = (torch.linalg.inv(factor).diagonal() for factor in factors)
    return 0.5 * (weight.square() / inputs).sum(1) / gradients


def summed_weight_update(weight: Tensor, factors: Factors, kept: Tensor) -> Tensor:
    """(out, d) weight after adding the OBS updates of every weight in the removed rows, which are zero afterwards."""
    removed = complement(len(weight), kept)
    inputs, gradients = (torch.linalg.inv(factor) for factor in factors)
    target = weight[removed] / (gradients.diagonal()[removed, None] * inputs.diagonal())
    updated = torch.zeros_like(weight)
    updated[kept] = weight[kept] - gradients[kept][:, removed] @ target @ inputs
    return updated


class FilterOBD(Selection[NodeLayer]):
    """C-OBD.

    Args:
        labels: ``sampled`` from the network's predictions (true Fisher, as published) or ``true``.
        batch_size: samples whose gradients are held at a time, for one layer after the other.
    """

    additive = True
    single_units = True

    def __init__(self, labels: str = "sampled", batch_size: int = 64) -> None:
        self.labels = labels
        self.batch_size = batch_size

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) sum over the writing layers."""
        diagonal = shared_diagonal(layer, self.labels, self.batch_size)
        costs = [filter_obd_cost(weight_matrix(require_factorable(layer.model, n)), diagonal[n]) for n in layer.writers]
        return torch.stack(costs).sum(0)


class FilterOBS(KroneckerSelection):
    """C-OBS; its update is :class:`FilterOBSCompensation`.

    Args:
        damping: added to the Fisher, in units of each layer's mean curvature, split over A and G by the pi rule.
        labels: ``sampled`` or ``true``.
    """

    cost = staticmethod(filter_obs_cost)

    def __init__(self, damping: float = 1e-3, labels: str = "sampled") -> None:
        super().__init__(damping, labels)


class FilterOBSCompensation(KroneckerCompensation):
    """C-OBS's update of the writers' kept rows: the sum of single-weight updates, as published."""

    def __init__(self, damping: float = 1e-3, labels: str = "sampled") -> None:
        super().__init__(damping, labels)
        self.update = summed_weight_update


def shared_diagonal(layer: NodeLayer, labels: str, batch_size: int = 64) -> dict[str, Tensor]:
    """Fisher diagonal of the whole network, computed once for all layers of a pruning step."""
    key = ("fisher_diagonal", labels)
    if key not in layer.shared:
        data = layer.calibration
        layer.shared[key] = fisher_diagonal(
            layer.model,
            factorable(layer.model),
            data.inputs,
            data.labels,
            generator=label_stream(data, labels),
            batch_size=batch_size,
        )
    return layer.shared[key]
