"""Compensations repair the network: the units that stay make up for those that were removed.

For nodes, what a reader takes in, phi in R^m, is approximated by A phi_J from the kept nodes J, and the reader's weight
becomes W A. For edges, the kept weights of each output unit are refitted so that its pre-activation changes least.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from methods.errors import BadInput
from methods.layers.ridge import RidgeInverse, solve_ridge
from methods.layers.seen import EdgeLayer, NodeLayer, several_units
from methods.network.graph import NodeGroup
from methods.network.kinds.registry import write_parameters
from methods.progress import track


class OwnRidge(Protocol):
    """The part of a selection that compensations use; ``order`` is that of ``Selection``."""

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
    """Changes nothing: the units that stay keep their weights. Base class of all compensations.

    Attributes:
        units: the units of the selections whose survivors it can repair.
        single_units: as for ``Selection``: whether it changes the output units of the writers one by one.
    """

    units: frozenset[str] = frozenset({"node", "edge", "eigen", "block", "exact", "rank"})
    single_units: bool = False

    def leaves_alone(self, group: NodeGroup) -> str | None:
        """Why a group of nodes is left alone with this compensation; None if it is pruned."""
        return several_units(group) if self.single_units else None

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
    """Fits the next layer's input to the kept nodes by least squares; for edges, each unit's sum to its kept inputs.

    With the ridge tau of spectral pruning this is its reconstruction matrix A_J = S_FJ (S_JJ + diag tau)^-1 (Suzuki et
    al. 2020, section 2); with no ridge it is DIVNET's fusing (Mariet & Sra 2016) and, for edges, the reweighting of
    Acharyya et al. 2020.

    ``conf/compensation/least_squares.yaml`` sets ``ridge`` and ``refit`` alike for every selection, so that a
    comparison of selections compares nothing else; ``conf/compensation/as_published.yaml`` leaves both to the
    selection's own paper, which is what None means here.

    Args:
        ridge: a number lambda is the uniform ridge lambda x Tr S / m of every selection. None: the selection's own
            (spectral: tau = k lambda tau'_J; others: none, the minimum-norm solution).
        intercept: also fit a constant and put it into the reader's bias (readers without a bias go without). Not in the
            papers. Nodes only.
        refit: regress what the original network computes on the features of the partly pruned network, layer by layer
            from the input, so that errors do not add up. None: only for selections that look at the partly pruned
            network (DIVNET: the targets stay the original next-layer inputs); for all others this is our extension.
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
            # a reader without a bias cannot absorb a constant, so none may be fitted
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

    @torch.no_grad()
    def edge_weights(
        self, layers: Sequence[EdgeLayer], masks: Mapping[str, Tensor], selection: OwnRidge
    ) -> dict[str, Tensor]:
        """Per output unit, the kept weights that least change its pre-activation on the calibration data.

        With ``refit`` the inputs are those of the network whose earlier layers are already pruned and repaired; for
        grouped convolutions they are those of the dense network.
        """
        refit = selection.order == "forward" if self.refit is None else self.refit
        current = copy.deepcopy(layers[0].model) if refit and layers else None
        result = {}
        for layer in track(layers, "least squares on edges"):
            mask = masks[layer.name]
            if current is None or layer.paired is None or layer.groups > 1:
                moments = [(own.second, own.second) for own in layer.moments_of_groups]
            else:
                cross, second = (moments.second for moments in layer.paired(current))
                moments = [(cross, second)]
            rows = zip(layer.weight.chunk(layer.groups), mask.chunk(layer.groups), moments, strict=True)
            result[layer.name] = torch.cat([self._fitted(weight, own, *pair) for weight, own, pair in rows])
            if current is not None:
                write_parameters(current.get_submodule(layer.name), result[layer.name])
        return result

    def _fitted(self, weight: Tensor, mask: Tensor, cross: Tensor, second: Tensor) -> Tensor:
        """(out, d) weights on the mask: row by row the least-squares fit of w x by w~ x~, with x~ the current input.

        Args:
            weight: (out, d) of the original network.
            mask: (out, d) which weights stay.
            cross: (d, d) E[x x~^T] of what the original and the pruned network read.
            second: (d, d) E[x~ x~^T].
        """
        ridge = (self.relative_ridge or 0.0) * second.trace() / len(second)
        fitted = weight * mask
        same = cross is second
        for row in range(len(weight)):
            kept = mask[row].nonzero().squeeze(1)
            if len(kept) == 0 or (same and len(kept) == mask.shape[1]):
                continue
            # the ridge shrinks the correction, not the weight, so that the error can only fall
            missed = (weight[row] @ cross - fitted[row] @ second)[kept]
            tau = ridge.expand(len(kept))
            fitted[row, kept] += solve_ridge(second[kept][:, kept], missed[:, None], tau).squeeze(1)
        return fitted
