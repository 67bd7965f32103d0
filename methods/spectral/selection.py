"""Spectral pruning: keep the nodes that reconstruct what the next layer reads.

Suzuki, Abe, Murata, Horiuchi, Ito, Wachi, Hirai, Yukishima and Nishimura, "Spectral Pruning: Compressing Deep Neural
Networks via Spectral Analysis and its Generalization Error", IJCAI 2020, arXiv 1808.08558.

phi(x) in R^m is what the next layer multiplies with its weight W (so: after activation and pooling), S = E[phi phi^T]
its non-centred covariance over the calibration samples (and positions), J the k kept nodes:

    A_J  = argmin_A E||phi - A phi_J||^2 + Tr[A diag(tau) A^T] = S_FJ (S_JJ + diag tau)^-1      (m, k)
    R_J  = S - S_FJ (S_JJ + diag tau)^-1 S_JF
    L(J) = theta Tr[R_J] + (1 - theta) Tr[Z R_J Z^T]        input and output information loss
    tau  = k lam tau'_J,  lam relative to Tr S,  tau' the leverage scores at lam
    Z_o  = sqrt(m q_o) / max_o' ||W_o'|| W_o                the rows of W, scaled

L is minimised greedily (``methods.spectral.greedy``); W becomes W A_J by ``compensation=least_squares``, which asks for
this method's ridge. q is uniform over all rows ("simultaneous") or, over the rows that the already pruned next layer
keeps, proportional to the inverse of their leverage scores ("backward"). No labels are read.

Reconstructed from secondary sources where the paper's text was not at hand: the exact form of q, the constants of the
norm constraint, and the treatment of convolutions: a channel is a node, its positions are samples, and the r weights
with which an output reads a channel give r rows of Z with the same q (cross-position correlations are ignored, which
costs at most a factor r in the output error); the row norm is that of the whole filter. Our extension: several readers
of one group are stacked, with one joint q and one joint largest norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.budgets.budget import Count
from methods.errors import BadInput
from methods.layers.ridge import RidgeInverse, strips
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration
from methods.selection import Selection
from methods.spectral.greedy import (
    AnyMetric,
    Metric,
    checked,
    checked_metric,
    greedy_path,
    greedy_selection,
    metric_times,
)
from methods.spectral.network_error import chain_bound, network_error
from methods.spectral.theory import (
    bias_variance,
    compression_bound,
    constraint_sides,
    degrees_of_freedom,
    layer_error,
    leverage_scores,
    mixed_degrees_of_freedom,
    output_degrees_of_freedom,
    propagation_bound,
    row_weights,
    sufficient_width,
)

if TYPE_CHECKING:
    from methods.pruned import Pruned

__all__ = [
    "Metric",
    "SpectralSelection",
    "bias_variance",
    "compression_bound",
    "constraint_sides",
    "degrees_of_freedom",
    "explained_ratio_curve",
    "greedy_path",
    "greedy_selection",
    "information_loss",
    "layer_error",
    "leverage_scores",
    "output_degrees_of_freedom",
    "output_metric",
    "propagation_bound",
    "reconstruction_matrix",
    "row_weights",
    "sufficient_width",
]

LAMBDAS = tuple(10.0**exponent for exponent in range(-6, 0))
"""The lam, relative to the trace, at which degrees of freedom are reported."""
PATH_RIDGE = 1e-10
"""Ridge of the explained-ratio path relative to each node's own second moment: small, but never a singular system."""


@torch.no_grad()
def reconstruction_matrix(
    covariance: Tensor, kept: Tensor | Sequence[int], ridge: Tensor | float | None = None
) -> Tensor:
    """A_J = S_FJ (S_JJ + diag tau)^-1, (m, k); where the system is singular, the minimum-norm solution.

    Args:
        covariance: (m, m) S.
        kept: (k,) J in any order; the columns of A follow it.
        ridge: (k,) tau in the order of ``kept``, or one number.
    """
    covariance, _ = checked(covariance, len(kept), None)
    kept = _positions(kept, covariance.device)
    if len(kept) == 0:
        return covariance.new_zeros(len(covariance), 0)
    tau = torch.as_tensor(0.0 if ridge is None else ridge, dtype=torch.float64, device=covariance.device)
    inverse = RidgeInverse(covariance[kept[:, None], kept], tau.expand(len(kept)))
    return inverse.times_(covariance[kept]).T


@torch.no_grad()
def information_loss(
    covariance: Tensor, kept: Tensor | Sequence[int], ridge: Tensor | float | None = None, metric: AnyMetric = None
) -> Tensor:
    """L(J) = Tr[M R_J]: input loss for metric None, output loss for Z^T Z, mixed for theta I + (1 - theta) Z^T Z.

    Args:
        covariance: (m, m) S.
        kept: (k,) J; may be empty.
        ridge: (k,) tau in the order of ``kept``, or one number.
        metric: M as a (m, m) matrix or a Metric.
    """
    kept = _positions(kept, covariance.device)
    matrix = reconstruction_matrix(covariance, kept, ridge)
    return residual_trace(covariance.double(), kept, matrix, checked_metric(metric)).clamp(min=0)


def _positions(kept: Tensor | Sequence[int], device: torch.device) -> Tensor:
    """Return the indices of the kept nodes as int64; anything else, such as a mask, is BadInput."""
    found = torch.as_tensor(kept, device=device)
    if len(found) > 0 and (found.dtype == torch.bool or found.is_floating_point()):
        raise BadInput(
            "the kept nodes must be given by their numbers; got a mask or fractions (mask.nonzero() has them)"
        )
    return found.to(torch.int64)


def residual_trace(covariance: Tensor, kept: Tensor, matrix: Tensor, metric: AnyMetric = None) -> Tensor:
    """Tr[M (S - A S_JF)] for any A (m, k), a few columns at a time, so that no further (m, m) array is needed."""
    total = covariance.new_zeros(())
    for part in strips(len(covariance), 256):
        residual = covariance[:, part] - matrix @ covariance[kept, part]
        total += metric_times(metric, residual)[part].diagonal().sum()
    return total


def output_metric(
    weights: Sequence[Tensor],
    theta: float,
    kept: Sequence[Tensor | None] | None = None,
    probability: Sequence[Tensor | None] | None = None,
    normalisation: str = "paper",
) -> Metric:
    """M = theta I + (1 - theta) Z^T Z from the weights of all readers.

    Args:
        weights: one (out, m, r) per reader; a linear layer has r = 1.
        theta: share of the input loss.
        kept: per reader the rows that stay; None: all of them.
        probability: per reader q over its rows (out,); None: uniform over the rows that stay. Several readers share
            one q in proportion to their numbers of rows that stay.
        normalisation: "paper" scales row o by sqrt(m q_o) / max ||W_o'||, the maximum over all rows of all readers,
            which makes both losses similar in size (Tr[Z^T Z] <= m = Tr I); "raw" takes the rows as they are.
    """
    none = [None] * len(weights)
    stays = []
    for weight, rows in zip(weights, kept or none, strict=True):
        mask = torch.ones(len(weight), dtype=torch.float64, device=weight.device)
        if rows is not None:
            mask = torch.zeros_like(mask).index_fill_(0, rows.to(mask.device), 1.0)
        stays.append(mask)
    if normalisation == "raw":
        return Metric(theta, list(weights), stays)
    nodes, total = weights[0].shape[1], sum(mask.sum() for mask in stays)
    largest = torch.stack([weight.flatten(1).norm(dim=1).max() for weight in weights]).max()
    factors = []
    for mask, own in zip(stays, probability or none, strict=True):
        q = mask / total if own is None else own.to(mask) * mask.sum() / total
        factors.append((nodes * q).sqrt() / largest.clamp(min=torch.finfo(torch.float64).tiny))
    return Metric(theta, list(weights), factors if bool(largest > 0) else stays)


def explained_ratio_curve(covariance: Tensor, metric: AnyMetric = None) -> Tensor:
    """(m + 1,) 1 - L(J_k) / L(empty) for k = 0 ... m along one greedy path at a vanishing ridge, non-decreasing.

    If there is nothing to explain (a dead layer) it is one throughout.
    """
    covariance, _ = checked(covariance, 0, None)
    ridge = PATH_RIDGE * covariance.diagonal()
    losses = greedy_path(covariance, len(covariance), ridge, metric).losses
    if not bool(losses[0] > 0):
        return torch.ones_like(losses)
    return (1 - losses / losses[0]).clamp(0, 1).cummax(0).values


class SpectralSelection(Selection[NodeLayer]):
    """Chooses k nodes greedily so that the information loss is smallest.

    Args:
        theta: share of the input loss, in [0, 1]; the paper's figures use 0.5, its best value for a VGG-13 was 0.3.
        lam: ridge lambda relative to the trace of the covariance; larger values (1e-4 to 1e-3) help when the
            calibration samples are about as few as the kept nodes.
        procedure: "simultaneous" treats every layer on its own; "backward" goes from the output to the input and lets
            Z contain only the rows that stay.
        normalisation: "paper" or "raw", the scaling of Z's rows.
        constraint: sum_J 1/tau' <= (5/3) m k. "log" reports it, "off" leaves it out, "enforce" never picks a node
            after which the remaining picks could not satisfy it (and raises Skipped if no k nodes do).
    """

    def __init__(
        self,
        theta: float = 0.5,
        lam: float = 1e-6,
        procedure: str = "simultaneous",
        normalisation: str = "paper",
        constraint: str = "log",
    ) -> None:
        if not 0 <= theta <= 1:
            raise BadInput(f"selection.theta={theta:g} is outside [0, 1], the share of the input loss; try 0.5")
        if not 0 <= lam < float("inf"):
            raise BadInput(f"selection.lam={lam:g} must be 0 or more (relative to the covariance's trace); try 1e-6")
        _one_of("procedure", procedure, ("simultaneous", "backward"))
        _one_of("normalisation", normalisation, ("paper", "raw"))
        _one_of("constraint", constraint, ("log", "enforce", "off"))
        self.theta, self.lam = float(theta), float(lam)
        self.procedure, self.normalisation, self.constraint = procedure, normalisation, constraint
        self.order = "backward" if procedure == "backward" else "independent"

    additive = True

    def select(self, layer: NodeLayer, k: Count) -> Tensor:
        """The k kept nodes, sorted."""
        covariance, k = layer.covariance, int(k)
        if k == len(covariance):
            return torch.arange(k, device=covariance.device)
        leverage = self.leverage(layer)
        price = 1 / leverage if self.constraint == "enforce" else None
        limit = 5 / 3 * len(covariance) * k
        path = greedy_path(covariance, k, self._ridge(covariance, leverage, k), self.metric(layer), price, limit)
        return path.order.sort().values

    def ridge(self, layer: NodeLayer, kept: Tensor) -> Tensor:
        """(k,) tau = k lam Tr[S] tau'_J; zeros if every node stays, so that nothing changes."""
        if len(kept) == layer.size:
            return super().ridge(layer, kept)
        return self._ridge(layer.covariance, self.leverage(layer), len(kept))[kept]

    def row_probability(self, layer: NodeLayer, kept: Tensor) -> Tensor:
        """(m,) q over this layer's nodes, for the layers before it (backward procedure)."""
        return row_weights(self.leverage(layer), kept)

    def explained(self, layer: NodeLayer) -> Tensor:
        """(m + 1,) share of L(empty) that the best k = 0 ... m nodes explain, for ``allocation=information``."""
        return explained_ratio_curve(layer.covariance, self.metric(layer))

    def gains(self, layer: NodeLayer) -> Tensor:
        """(m,) decrease of the mean squared error of the readers' outputs with each node of a greedy path.

        This is the output loss with the readers' unscaled weights, whatever theta and normalisation are: only that has
        the same unit in all layers.
        """
        covariance = layer.covariance
        ridge = PATH_RIDGE * covariance.diagonal()
        metric = output_metric(layer.outgoing, 0.0, normalisation="raw")
        losses = greedy_path(covariance, layer.size, ridge, metric).losses
        return (losses[:-1] - losses[1:]).clamp_min(0)

    def metric(self, layer: NodeLayer) -> Metric | None:
        """M for a layer; None, the identity, for theta = 1."""
        return None if self.theta == 1 else self._metric(layer, self.theta)

    def _metric(self, layer: NodeLayer, theta: float) -> Metric:
        kept, probability = None, None
        if self.procedure == "backward":
            kept, probability = layer.readers_kept or None, layer.readers_probability or None
        return output_metric(layer.outgoing, theta, kept, probability, self.normalisation)

    def leverage(self, layer: NodeLayer) -> Tensor:
        """(m,) tau' at this method's lam, computed once per layer."""
        key = f"leverage/{layer.name}/{self.lam}"
        if key not in layer.shared:
            layer.shared[key] = leverage_scores(layer.covariance, self._absolute(layer.covariance))
        return layer.shared[key]

    def report(self, layer: NodeLayer, kept: Tensor) -> dict[str, Any]:
        """The layer's numbers of the theory: spectrum, losses, bounds, both sides of the constraint, conditioning."""
        covariance, output = layer.covariance, self._metric(layer, 0.0)
        trace, lam = covariance.trace().item(), self._absolute(covariance)
        tau = self.ridge(layer, kept)
        matrix = reconstruction_matrix(covariance, kept, tau)
        input_loss, output_loss = (
            residual_trace(covariance, kept, matrix, each).clamp(min=0) for each in (None, output)
        )
        total, norm = residual_trace(covariance, kept[:0], matrix[:, :0], output), matrix.norm().item()
        del matrix  # frees an (m, k) array
        *degrees, own = degrees_of_freedom(covariance, [*(each * trace for each in LAMBDAS), lam]).tolist()
        out = mixed_degrees_of_freedom(covariance, output, lam).item()
        result: dict[str, Any] = {
            "m": len(covariance),
            "kept": len(kept),
            "trace": trace,
            "lambda": lam,
            "degrees_of_freedom": {f"{each:g}": degree for each, degree in zip(LAMBDAS, degrees, strict=True)},
            "degrees_of_freedom_at_lambda": own,
            "output_degrees_of_freedom": out,
            "input_loss": _ratio(input_loss, trace),
            "output_loss": _ratio(output_loss, total),
            "loss_bound": 4 * lam * (self.theta * own + (1 - self.theta) * out),
            "loss": (self.theta * input_loss + (1 - self.theta) * output_loss).item(),
            "sufficient_width": sufficient_width(own),
            "reconstruction_norm": norm,
            "condition_number": _condition(covariance[kept[:, None], kept], tau),
            "dead": int((covariance.diagonal() <= 0).sum()),
        }
        if self.constraint != "off":
            result["constraint"], result["constraint_limit"] = constraint_sides(self.leverage(layer), kept)
        return result

    def predictions(self, dense: nn.Module, pruned: Pruned, calibration: Calibration) -> list[dict[str, Any]]:
        """||f - f#||_n / ||f||_n on the calibration data, and its bound for a chain without training in between."""
        error = network_error(dense, pruned.model, calibration)
        bound = chain_bound(dense, pruned.model, pruned.kept, calibration) if len(pruned.steps) == 1 else None
        if bound is not None and error.absolute > 0:
            bound *= error.relative / error.absolute
        return [
            {
                "theory": "spectral propagation bound",
                "layer": None,
                "predicted": bound,
                "measured": error.relative,
                "unit": "relative output error",
            }
        ]

    def _absolute(self, covariance: Tensor) -> float:
        return self.lam * covariance.trace().item()

    def _ridge(self, covariance: Tensor, leverage: Tensor, k: int) -> Tensor:
        return k * self._absolute(covariance) * leverage


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BadInput(f"selection.{name}={value} is unknown; choose {', '.join(choices[:-1])} or {choices[-1]}")


def _ratio(part: Tensor | float, whole: Tensor | float) -> float:
    return float(part) / float(whole) if float(whole) > 0 else 0.0


def _condition(system: Tensor, ridge: Tensor) -> float | None:
    """Ratio of the extreme eigenvalues of S_JJ + diag tau, None if that is singular to rounding; overwrites S_JJ."""
    system.diagonal().add_(ridge)
    values = torch.linalg.eigvalsh(system)
    return (values[-1] / values[0]).item() if bool(values[0] > 1e-16 * values[-1]) else None
