"""How the survivors make up for the removed.

For nodes, what a reader takes in, phi in R^m, is approximated by A phi_J from the kept nodes J, and the reader's weight
becomes W A. For edges, the kept weights of each output unit are refitted so that its pre-activation changes least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from methods.errors import BadInput
from methods.layers.ridge import RidgeInverse, solve_ridge
from methods.layers.seen import EdgeLayer, NodeLayer
from methods.progress import track


class OwnRidge(Protocol):
    """A selection as compensations see it; ``order`` is that of ``Selection``."""

    order: str

    def ridge(self, layer: NodeLayer, kept: Tensor) -> Tensor:
        """(k,) ridge of the method's own reconstruction."""


@dataclass(frozen=True)
class Reconstruction:
    """phi ~ matrix @ phi_kept + shift, for one reader.

    Attributes:
        matrix: (m, k) float64.
        shift: (m,) float64, or None without intercept.
    """

    matrix: Tensor
    shift: Tensor | None = None


class Compensation:
    """No compensation: survivors keep their weights. Base of all others.

    Attributes:
        units: the units of the selections whose survivors it can repair.
    """

    units: frozenset[str] = frozenset({"node", "edge", "eigen"})

    def reconstruction(self, layer: NodeLayer, kept: Tensor, selection: OwnRidge) -> list[Reconstruction]:
        """For each reader, how the m nodes are rebuilt from the kept ones; an empty list leaves the weights alone."""
        return []

    def writer_update(
        self, layer: NodeLayer, kept: Tensor, selection: OwnRidge
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """New weight and bias (all rows) of writers by path, for methods that change the layer's own survivors."""
        return {}

    def edge_weights(
        self, layers: Sequence[EdgeLayer], masks: Mapping[str, Tensor], selection: OwnRidge
    ) -> dict[str, Tensor]:
        """New (out, d) weights of every layer, exactly zero off the mask."""
        return {layer.name: layer.weight * masks[layer.name] for layer in layers}

    def edge_biases(
        self, layers: Sequence[EdgeLayer], masks: Mapping[str, Tensor], selection: OwnRidge
    ) -> dict[str, Tensor]:
        """New (out,) biases of the layers whose bias changes."""
        return {}


class LeastSquares(Compensation):
    """What the next layer reads is regressed on what remains; edges of a unit on its remaining edges.

    With the ridge tau of spectral pruning this is its reconstruction matrix A_J = S_FJ (S_JJ + diag tau)^-1 (Suzuki et
    al. 2020, section 2); with no ridge it is DIVNET's fusing (Mariet & Sra 2016) and, for edges, the reweighting of
    Acharyya et al. 2020.

    Args:
        ridge: None uses the selection's own ridge (spectral: tau = k lambda tau'_J; others: none, the minimum-norm
            solution). A number lambda uses, for every selection, the uniform ridge lambda x Tr S / m.
        intercept: also fit a constant and put it into the reader's bias (readers without a bias go without). Not in the
            papers.
        refit: regress the original network's features on those of the partly pruned network, layer by layer from the
            input, so that errors do not add up. None does so exactly for selections that look at the partly pruned
            network (DIVNET: the targets stay the original next-layer inputs); for spectral pruning it is our extension.
    """

    units = frozenset({"node", "edge"})

    def __init__(self, ridge: float | None = None, intercept: bool = False, refit: bool | None = None) -> None:
        if ridge is not None and ridge < 0:
            raise BadInput(f"compensation.ridge={ridge:g} is negative; expected 0 or more, relative to the trace")
        self.relative_ridge, self.intercept, self.refit = ridge, intercept, refit

    def reconstruction(self, layer: NodeLayer, kept: Tensor, selection: OwnRidge) -> list[Reconstruction]:
        """A (m, k) per reader, from that reader's own moments."""
        refit = selection.order == "forward" if self.refit is None else self.refit
        if refit and layer.paired is not None:
            pairs = layer.paired()
        else:
            pairs = [(moments, moments) for moments in layer.moments]
        result = []
        for path, (cross, own) in zip(layer.readers, pairs, strict=True):
            ridge = self._ridge(own.second, layer, kept, selection)
            # a constant that no bias can take up must not be fitted: the rest would miss it
            centred = self.intercept and layer.model.get_submodule(path).bias is not None
            # the mean of the targets is the row mean of the first network, that of the features the second one's
            mean = own.mean[kept]
            system = own.second[kept[:, None], kept]
            inverse = RidgeInverse(system.addr_(mean, mean, alpha=-1) if centred else system, ridge)
            right = cross.second.T[kept]
            matrix = inverse.times_(right.addr_(mean, cross.mean, alpha=-1) if centred else right).T
            result.append(Reconstruction(matrix, cross.mean - matrix @ mean if centred else None))
        return result

    def _ridge(self, second: Tensor, layer: NodeLayer, kept: Tensor, selection: OwnRidge) -> Tensor:
        if self.relative_ridge is None:
            return selection.ridge(layer, kept).to(second.device)
        return (
            torch.full((len(kept),), self.relative_ridge, dtype=second.dtype, device=second.device)
            * second.trace()
            / len(second)
        )

    def edge_weights(
        self, layers: Sequence[EdgeLayer], masks: Mapping[str, Tensor], selection: OwnRidge
    ) -> dict[str, Tensor]:
        """Per output unit, the kept weights that least change its pre-activation on the calibration data."""
        return {
            layer.name: self._refit_layer(layer, masks[layer.name]) for layer in track(layers, "least squares on edges")
        }

    def _refit_layer(self, layer: EdgeLayer, mask: Tensor) -> Tensor:
        relative = self.relative_ridge or 0.0
        second = layer.moments.second
        ridge = relative * second.trace() / len(second)
        weight = layer.weight * mask
        for row in range(len(weight)):
            kept = mask[row].nonzero().squeeze(1)
            if 0 < len(kept) < mask.shape[1]:
                # the correction, not the weight, is what the ridge shrinks: the error can only fall
                gone = (layer.weight[row] - weight[row]) @ second[:, kept]
                tau = torch.full((len(kept),), float(ridge), dtype=second.dtype, device=second.device)
                weight[row, kept] += solve_ridge(second[kept][:, kept], gone[:, None], tau).squeeze(1)
        return weight
