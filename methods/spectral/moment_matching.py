"""Experimental: spectral pruning for a shifted domain, with matched second moments.

Dillard, Shinya and Suzuki, "Domain Adaptation Regularization for Spectral Pruning", BMVC 2020, arXiv 1912.11853: a
network trained on a labelled source domain is compressed for an unlabelled target domain. Two ingredients: whose data
give the covariance S (source, target, or both), and a term against nodes whose second moments differ,

    L(J) = theta L^A(J) + (1 - theta) L^B(J) + gamma sum_{i, j in J} (S^source_ij - S^target_ij)^2 / (Tr S)^2 Tr[M S]

The paper's text was not at hand; this form of the term is a reconstruction, and its normalisation (so that gamma has no
unit: Tr[M S] is the loss of keeping nothing) is ours. The suite has no pairs of domains: the target domain is
the source with another contrast, brightness and noise (:class:`Shift`), or any function of the inputs that is passed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from methods.budgets.budget import Count
from methods.compensation import LeastSquares, OwnRidge, Reconstruction
from methods.errors import BadInput
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Moments, collect_moments, pooled
from methods.seeds import stream
from methods.spectral.greedy import EXHAUSTED, TIE, AnyMetric, checked, metric_times
from methods.spectral.selection import SpectralSelection

SOURCES = ("source", "target", "both")


class Shift:
    """contrast x + brightness + noise times standard normal numbers, in units of the normalised inputs.

    Args:
        contrast: factor of the inputs.
        brightness: added to them.
        noise: standard deviation.
        seed: of the noise.
    """

    def __init__(self, contrast: float = 0.5, brightness: float = 0.0, noise: float = 0.5, seed: int = 0) -> None:
        if not noise >= 0:
            raise BadInput(f"selection.target.noise={noise}; expected a standard deviation, 0 or more")
        self.contrast, self.brightness, self.noise, self.seed = contrast, brightness, noise, seed

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the inputs as they would be in the target domain; the same for the same seed."""
        numbers = torch.randn(inputs.shape, generator=stream(self.seed, "domain shift"))
        return self.contrast * inputs + self.brightness + self.noise * numbers.to(inputs)


def moment_mismatch(source: Tensor, target: Tensor, kept: Tensor | None = None) -> Tensor:
    """Sum over i, j in J (all nodes for None) of (S^source_ij - S^target_ij)^2.

    Args:
        source: (m, m) second moments on the source domain.
        target: the same on the target domain.
        kept: (k,) J.
    """
    difference = source.double() - target.double()
    return (difference if kept is None else difference[kept][:, kept]).square().sum()


def greedy_matching(
    covariance: Tensor, k: int, ridge: Tensor | float | None, metric: AnyMetric, penalty: Tensor
) -> Tensor:
    """(k,) nodes in the order of picking, each minimising Tr[M R_J] + sum_{i, j in J} penalty_ij.

    Adding j lowers the loss by (R M R)_jj / (R_jj + tau_j) and adds penalty_jj + 2 sum_{i in J} penalty_ij. Ties go to
    the lowest index, dead nodes come last. With a zero penalty it is ``greedy_selection``, only slower: O(m^2) a step.

    Args:
        covariance: (m, m) S.
        k: nodes to keep.
        ridge: (m,) tau, or one number.
        metric: M; None is the identity.
        penalty: (m, m), symmetric and non-negative.
    """
    covariance, tau = checked(covariance, k, ridge)
    residual, moments = covariance.clone(), covariance.diagonal()
    weighted = metric_times(metric, residual).clone()
    cost = penalty.diagonal().clone()
    closed = torch.zeros_like(moments, dtype=torch.bool)
    order: list[int] = []
    for _ in range(k):
        pivot = residual.diagonal() + tau
        usable = (moments > 0) & (pivot > EXHAUSTED * moments)
        inverse = torch.where(usable, 1 / pivot, torch.zeros_like(pivot))
        gain = (residual * weighted).sum(0).clamp(min=0) * inverse - cost
        if not bool((usable & ~closed).any()):
            gain = -cost
        gain = gain.masked_fill(closed, -torch.inf)
        gain = torch.where((moments <= 0) & ~closed, -torch.finfo(gain.dtype).max, gain)
        best = gain.max()
        node = int(((gain >= best - TIE * best.abs()) & ~closed).nonzero()[0])  # dead nodes' gain overflows
        if bool(usable[node]):
            column, own, scale = residual[:, node].clone(), weighted[:, node].clone(), -float(inverse[node])
            # in place: an outer product of its own takes ten times as long; R_ij and R_ji may differ in the last bit
            residual.addr_(column, column, alpha=scale)
            weighted.addr_(own, column, alpha=scale)
        cost += 2 * penalty[node]
        closed[node] = True
        order.append(node)
    return torch.tensor(order, dtype=torch.int64, device=covariance.device)


class MomentMatchingSelection(SpectralSelection):
    """Experimental: spectral selection on the statistics of a chosen domain, with a penalty on mismatched moments.

    Args:
        data: which covariance is used: ``source`` (of the calibration samples), ``target`` or ``both`` (averaged).
        gamma: weight of the mismatch; 0 leaves it out.
        target: function from calibration inputs to inputs of the target domain; :class:`Shift` by default.
        theta, lam, constraint: as for :class:`SpectralSelection`; the constraint is logged or off.
    """

    def __init__(
        self,
        data: str = "target",
        gamma: float = 0.1,
        target: Callable[[Tensor], Tensor] | None = None,
        theta: float = 0.5,
        lam: float = 1e-6,
        constraint: str = "log",
    ) -> None:
        if data not in SOURCES:
            raise BadInput(f"selection.data={data} is unknown; choose {', '.join(SOURCES[:-1])} or {SOURCES[-1]}")
        if not 0 <= gamma < float("inf"):
            raise BadInput(f"selection.gamma={gamma:g} must be 0 or more; try 0.1")
        if constraint == "enforce":
            raise BadInput("selection.constraint=enforce is not offered with moment matching; choose log or off")
        super().__init__(theta, lam, constraint=constraint)
        self.data, self.gamma, self.target = data, float(gamma), target or Shift()

    def select(self, layer: NodeLayer, k: Count) -> Tensor:
        """The k kept nodes, sorted."""
        view, k = self.view(layer), int(k)
        if self.gamma == 0 or k == layer.size:
            return super().select(view, k)
        covariance = view.covariance
        source, target = (_average(self.moments(layer, data)) for data in ("source", "target"))
        metric = self.metric(view)
        whole = metric_times(metric, covariance).trace()
        penalty = self.gamma * (source - target).square() / covariance.trace().square().clamp(min=1e-300) * whole
        ridge = self._ridge(covariance, self.leverage(view), k)
        return greedy_matching(covariance, k, ridge, metric, penalty).sort().values

    def ridge(self, layer: NodeLayer, kept: Tensor) -> Tensor:
        """As for :class:`SpectralSelection`, on the chosen domain."""
        return super().ridge(self.view(layer), kept)

    def explained(self, layer: NodeLayer) -> Tensor:
        """As for :class:`SpectralSelection`, on the chosen domain; the mismatch has no part in it."""
        return super().explained(self.view(layer))

    def report(self, layer: NodeLayer, kept: Tensor) -> dict:
        """As for :class:`SpectralSelection`, on the chosen domain, and the mismatch of kept nodes relative to all."""
        source, target = (_average(self.moments(layer, data)) for data in ("source", "target"))
        whole = moment_mismatch(source, target)
        share = float(moment_mismatch(source, target, kept) / whole) if bool(whole > 0) else 0.0
        return super().report(self.view(layer), kept) | {"moment_mismatch": share}

    def view(self, layer: NodeLayer) -> NodeLayer:
        """The layer with the moments of the chosen domain."""
        if self.data == "source" or "domain view" in layer.shared:
            return layer
        own = layer.shared.setdefault(f"domain/{layer.name}", {"domain view": True})
        return replace(layer, collect=lambda: self.moments(layer, self.data), shared=own)

    def moments(self, layer: NodeLayer, data: str) -> list[Moments]:
        """Per reader the moments on the source, the target, or both with equal weights."""
        if data == "source":
            return layer.moments
        key = f"target moments/{layer.name}"
        if key not in layer.shared:
            inputs = self.target(layer.calibration.inputs)
            views = {reader.name: (reader.name, reader.rows) for reader in layer.group.readers}
            found = collect_moments(layer.model, views, replace(layer.calibration, inputs=inputs))
            moments = [found[reader.name] for reader in layer.group.readers]
            layer.shared[key] = [pooled(moments)] * len(moments) if layer.group.recurrent else moments
        target = layer.shared[key]
        return target if data == "target" else [pooled(pair) for pair in zip(layer.moments, target, strict=True)]


class DomainLeastSquares(LeastSquares):
    """Experimental: least squares on the moments of the selection's domain, if the selection has one."""

    units = frozenset({"node"})

    def reconstruction(self, layer: NodeLayer, kept: Tensor, selection: OwnRidge) -> list[Reconstruction]:
        """A (m, k) per reader."""
        if isinstance(selection, MomentMatchingSelection):
            layer = replace(selection.view(layer), paired=None)
        return super().reconstruction(layer, kept, selection)


def _average(moments: list[Moments]) -> Tensor:
    return torch.stack([each.second for each in moments]).mean(0)
