"""Kron-OBD and Kron-OBS: a whole filter as one unit under the Kronecker-factored Fisher F = G (x) A.

Paper: Wang, Grosse, Fidler & Zhang, "EigenDamage: Structured Pruning in the Kronecker-Factored Eigenbasis" (ICML 2019),
section 3. W (out, d) is a layer's weight with its bias as last column, w_i its row i (a neuron or a filter).

    Kron-OBD   cost_i = 1/2 G_ii (w_i A w_i^T)                  the others stay as they are
    Kron-OBS   cost_i = 1/2 (w_i A w_i^T) / [G^-1]_ii           the others move by dW = -(G^-1)_{:,i} w_i / [G^-1]_ii

For a set R of rows the exact update is dW = -(G^-1)_{:,R} ([G^-1]_RR)^-1 W_R: the group OBS solution of the Kronecker
form, where A cancels. It changes the other ROWS of the layer that writes the nodes, unlike a least-squares repair,
which changes the layers that read them. The paper's released code computes (w^2) A instead of w A w^T; here it is the
formula.

The paper adds up the costs of single rows. Rows that can make up for each other are then all cheap: of two equal rows
both may go. The cost of a set is 1/2 tr(([G^-1]_RR)^-1 W_R A W_R^T); ``set_aware`` removes one row after the other,
each time the one that adds least to it. This is our extension. On wide networks the paper prunes in steps and measures
the curvature again at each (``schedule=iterative schedule.between=false``), which bounds how far the quadratic model is
trusted.

A batch norm behind a filter is ignored, as in the paper: the cost is that of setting w_i to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from methods.budgets.budget import Count
from methods.compensation import Compensation, OwnRidge
from methods.curvature.damping import checked_damping
from methods.curvature.kfac import (
    Factors,
    calibrated_factors,
    factorable,
    relatively_damped,
    require_factorable,
    split_matrix,
    weight_matrix,
)
from methods.errors import BadInput
from methods.layers.seen import NodeLayer
from methods.selection import Selection

TINY = 1e-300  # instead of a variance that rounding has made zero


def row_energies(weight: Tensor, inputs: Tensor) -> Tensor:
    """(out,) w_i A w_i^T: the mean square of what each row writes."""
    return ((weight @ inputs) * weight).sum(1)


def kron_obd_cost(weight: Tensor, factors: Factors) -> Tensor:
    """(out,) predicted increase of the loss when a row is set to zero and nothing else moves."""
    return 0.5 * factors.G.diagonal() * row_energies(weight, factors.A)


def kron_obs_cost(weight: Tensor, factors: Factors) -> Tensor:
    """(out,) predicted increase when a row is set to zero and the other rows make up for it; G must be regular."""
    return 0.5 * row_energies(weight, factors.A) / torch.linalg.inv(factors.G).diagonal()


def group_cost(weight: Tensor, factors: Factors, removed: Tensor) -> Tensor:
    """Predicted increase when all rows in ``removed`` go at once: 1/2 tr(([G^-1]_RR)^-1 W_R A W_R^T)."""
    gone = weight[removed]
    block = torch.linalg.inv(factors.G)[removed][:, removed]
    return 0.5 * (torch.linalg.solve(block, gone @ factors.A) * gone).sum()


def removal_path(layers: Sequence[tuple[Tensor, Factors]]) -> tuple[Tensor, Tensor]:
    """Return the order in which rows are removed: each time the row that adds least to the cost of all removed rows.

    With P = [G_KK]^-1 of the rows K that are left and W their weights after the exact update, row i costs
    1/2 w_i A w_i^T / P_ii more; then P loses P_{:,i} P_{i,:} / P_ii and W the rows P_{:,i} w_i / P_ii (block
    inversion).
    Of rows that several layers write, the costs add up. O(out^3).

    Args:
        layers: of each layer that writes the rows, its weight (out, d) and factors; G must be regular.

    Returns:
        The order (out,), int64, and what each removal adds to the cost (out,), float64; these sum to ``group_cost``.
    """
    inverses = [torch.linalg.inv(factors.G) for _, factors in layers]
    energies = [weight @ factors.A @ weight.T for weight, factors in layers]  # (out, out): w_i A w_j^T
    size = len(energies[0])
    gone = torch.zeros(size, dtype=torch.bool, device=energies[0].device)
    order, costs = [], []
    for _ in range(size):
        pairs = zip(energies, inverses, strict=True)
        growth = torch.stack([0.5 * e.diagonal() / p.diagonal().clamp_min(TINY) for e, p in pairs]).sum(0)
        row = int(growth.masked_fill(gone, torch.inf).argmin())
        order.append(row)
        costs.append(float(growth[row]))
        gone[row] = True
        for energy, inverse in zip(energies, inverses, strict=True):
            share = inverse[:, row] / inverse[row, row]
            column, own = energy[:, row].clone(), float(energy[row, row])
            energy.addr_(share, column, alpha=-1).addr_(column, share, alpha=-1).addr_(share, share, alpha=own)
            inverse.addr_(share, inverse[row].clone(), alpha=-1)
    return torch.tensor(order, device=gone.device), torch.tensor(costs, dtype=torch.float64, device=gone.device)


def group_update(weight: Tensor, factors: Factors, kept: Tensor) -> Tensor:
    """(out, d) weight after the exact removal of every row that is not in ``kept``; removed rows are zero.

    Computed as W_K + [G_KK]^-1 G_KR W_R, which equals the formula with G^-1 (block inversion) and needs no inverse.
    """
    removed = complement(len(weight), kept)
    updated = torch.zeros_like(weight)
    block = factors.G[kept]
    updated[kept] = weight[kept] + torch.linalg.solve(block[:, kept], block[:, removed] @ weight[removed])
    return updated


def summed_update(weight: Tensor, factors: Factors, kept: Tensor) -> Tensor:
    """As :func:`group_update`, but the SUM of the updates for single rows, as the paper's code has it: not exact."""
    removed = complement(len(weight), kept)
    inverse = torch.linalg.inv(factors.G)
    updated = torch.zeros_like(weight)
    change = inverse[kept][:, removed] / inverse.diagonal()[removed]
    updated[kept] = weight[kept] - change @ weight[removed]
    return updated


def shared_factors(layer: NodeLayer, labels: str) -> dict[str, Factors]:
    """K-FAC factors of the whole network, computed once for all layers of a pruning step."""
    key = ("kfac", labels)
    if key not in layer.shared:
        layer.shared[key] = calibrated_factors(layer.model, layer.calibration, labels, factorable(layer.model))
    return layer.shared[key]


class KroneckerSelection(Selection[NodeLayer]):
    """Score of a node = sum over the layers that write it of the cost of its row."""

    additive = True
    single_units = True
    cost: Callable[[Tensor, Factors], Tensor]

    def __init__(self, damping: float, labels: str = "sampled") -> None:
        self.damping = checked_damping(damping, "selection")
        self.labels = labels

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) predicted increase of the loss, in the units of the loss and so comparable between layers."""
        return torch.stack([type(self).cost(weight, factors) for weight, factors in self.written(layer)]).sum(0)

    def written(self, layer: NodeLayer) -> list[tuple[Tensor, Factors]]:
        """Weight and damped factors of each layer that writes the nodes."""
        found = []
        for name in layer.writers:
            module = require_factorable(layer.model, name)
            factors = relatively_damped(shared_factors(layer, self.labels)[name], self.damping)
            found.append((weight_matrix(module), factors))
        return found

    def report(self, layer: NodeLayer, kept: Tensor) -> dict[str, Any]:
        """The predicted increase of the loss, summed over removed nodes as if each went alone."""
        gone = complement(layer.size, kept)
        return {
            "predicted_increase": float(self.scores(layer)[gone].sum()),
            "labels": self.labels,
            "damping": self.damping,
        }


class KronOBD(KroneckerSelection):
    """Kron-OBD.

    Args:
        damping: added to the Fisher, in units of each layer's mean curvature, split over A and G by the pi rule.
        labels: ``sampled`` from the network's predictions (true Fisher, as published) or ``true``.
    """

    cost = staticmethod(kron_obd_cost)

    def __init__(self, damping: float = 0.0, labels: str = "sampled") -> None:
        super().__init__(damping, labels)


class KronOBS(KroneckerSelection):
    """Kron-OBS; its update is :class:`KroneckerCompensation`.

    Args:
        damping: as for :class:`KronOBD`.
        labels: as for :class:`KronOBD`.
        set_aware: whether a row counts with what it adds to the cost of the removed set; False: with its cost alone, as
            published.
    """

    cost = staticmethod(kron_obs_cost)

    def __init__(self, damping: float = 1e-3, labels: str = "sampled", set_aware: bool = False) -> None:
        super().__init__(damping, labels)
        self.set_aware = set_aware
        self.additive = set_aware  # costs of single rows that others make up for do not add up to that of the set

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) as published; if set-aware, what a node's removal adds, or an earlier removal if that added more."""
        if not self.set_aware:
            return super().scores(layer)
        order, costs = self._path(layer)
        return torch.empty_like(costs).scatter_(0, order, costs.cummax(0).values)

    def gains(self, layer: NodeLayer) -> Tensor:
        """(m,) as for every selection; if set-aware, the removals' costs backwards."""
        return self._path(layer)[1].flip(0) if self.set_aware else super().gains(layer)

    def select(self, layer: NodeLayer, k: Count) -> Tensor:
        """The k kept nodes, sorted."""
        if not self.set_aware:
            return super().select(layer, k)
        assert isinstance(k, int)
        return self._path(layer)[0][layer.size - k :].sort().values

    def report(self, layer: NodeLayer, kept: Tensor) -> dict[str, Any]:
        """As for every Kronecker selection; if set-aware, the predicted increase is that of the whole set."""
        told = super().report(layer, kept)
        if self.set_aware:
            gone = complement(layer.size, kept)
            increase = sum(float(group_cost(weight, factors, gone)) for weight, factors in self.written(layer))
            told |= {"predicted_increase": increase, "set_aware": True}
        return told

    def _path(self, layer: NodeLayer) -> tuple[Tensor, Tensor]:
        return layer.once(
            ("removal path", layer.name, self.damping, self.labels), lambda: removal_path(self.written(layer))
        )


class KroneckerCompensation(Compensation):
    """The kept rows of the layers that write the nodes take over from the removed ones; readers only lose columns.

    Args:
        damping: as for :class:`KronOBD`; G must be regular, so it should be positive.
        labels: ``sampled`` or ``true``.
        update: ``group`` for the exact update of the whole set, ``summed`` for the sum of single-filter updates (as in
            the paper's code).
    """

    units = frozenset({"node"})
    single_units = True
    updates = {"group": group_update, "summed": summed_update}  # noqa: RUF012

    def __init__(self, damping: float = 1e-3, labels: str = "sampled", update: str = "group") -> None:
        if update not in self.updates:
            raise BadInput(f"compensation.update={update!r} is not known; expected {' or '.join(self.updates)}")
        self.damping = checked_damping(damping, "compensation")
        self.labels = labels
        self.update = self.updates[update]

    def writer_update(
        self, layer: NodeLayer, kept: Tensor, selection: OwnRidge
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """For each writer its new weight and bias in the module's shape; removed rows are zero."""
        new = {}
        for name in layer.writers:
            module = require_factorable(layer.model, name)
            factors = relatively_damped(shared_factors(layer, self.labels)[name], self.damping)
            new[name] = split_matrix(self.update(weight_matrix(module), factors, kept), module)
        return new


def complement(size: int, kept: Tensor) -> Tensor:
    """(size - k,) the indices that are not in ``kept`` (k,), in order; int64."""
    stays = torch.zeros(size, dtype=torch.bool, device=kept.device)
    stays[kept] = True
    return (~stays).nonzero().flatten()
