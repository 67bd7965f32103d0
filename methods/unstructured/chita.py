"""CHITA: keep the weights that a sparse regression on the gradients of the whole network selects.

Benbaki, Chen, Meng, Hazimeh, Ponomareva, Zhao and Mazumder, "Fast as CHITA: Neural Network Pruning with Combinatorial
Optimization", ICML 2023. With single-sample gradients as the rows of A (N, d), the local model of the loss around the
weights w^ is a regression: with b = A w^ - e, e all ones (equation 5),

    N Q(w)  =  1/2 ||b - A w||^2 + N lambda / 2 ||w - w^||^2,        at most k of d weights not zero,

and no d x d matrix is formed. Iterative hard thresholding w <- P_k(w - tau grad) starts from the k largest weights. The
step is the best one along the gradient on the support if that leaves the support as it is; else steps that change it
are tried, each twice the last, as long as the objective falls. When none does, the weights on the support are solved
for exactly, and thresholding begins again from there, as long as that finds another support that is better.

The paper restricts the steps to an active set and refines by coordinate descent, which serve the same problem at
sizes where A does not fit; here both are exact. The weights themselves come from ``compensation=group_obs``, the same
minimiser on the support.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from methods.curvature.damping import checked_damping
from methods.errors import BadInput
from methods.hessian.obs import group_update
from methods.layers.gradients import Samples, shared_gradients
from methods.layers.seen import EdgeLayer
from methods.progress import track
from methods.selection import Selection, largest_mask


class Regression:
    """Computes N Q as a function of the weights; large products are taken in the gradients' precision.

    Args:
        gradients: A (N, d).
        weight: (d,) w^, float64.
        damping: lambda.
        first_order: whether e is part of b; without it the gradient at w^ is taken to be zero.
    """

    def __init__(self, gradients: Tensor, weight: Tensor, damping: float, first_order: bool = True) -> None:
        self.gradients, self.weight, self.damping, self.first_order = gradients, weight, damping, first_order
        self.ridge = len(gradients) * damping

    def residual(self, weight: Tensor) -> Tensor:
        """(N,) A w - b, float64."""
        moved = (self.gradients @ (weight - self.weight).to(self.gradients)).double()
        return moved + 1 if self.first_order else moved

    def loss(self, weight: Tensor, residual: Tensor) -> float:
        """N Q at ``weight``, which has this ``residual``."""
        return float(residual.square().sum() + self.ridge * (weight - self.weight).square().sum()) / 2

    def slope(self, weight: Tensor, residual: Tensor) -> Tensor:
        """(d,) gradient of N Q."""
        back = (self.gradients.T @ residual.to(self.gradients)).double()
        return back + self.ridge * (weight - self.weight)

    def solved(self, kept: Tensor) -> Tensor:
        """(d,) the minimiser with zeros off ``kept``."""
        change = group_update(self.gradients, self.weight, ~kept, self.damping, self.first_order)
        return torch.where(kept, self.weight + change, 0.0)


def threshold_step(problem: Regression, weight: Tensor, count: int, tries: int = 10) -> tuple[Tensor, float]:
    """One step of hard thresholding from ``weight`` (d,) with ``count`` nonzeros; never to a larger loss."""
    residual = problem.residual(weight)
    best, lowest = weight, problem.loss(weight, residual)
    slope, support = problem.slope(weight, residual), weight != 0
    direction = slope * support
    along = (problem.gradients @ direction.to(problem.gradients)).double()
    curvature = float(along.square().sum() + problem.ridge * direction.square().sum())
    step = float(direction.square().sum()) / curvature if curvature > 0 else 0.0
    limit = _support_changes(weight, slope, support)
    if step < limit:
        moved = weight - step * direction
        loss = problem.loss(moved, problem.residual(moved))
        if loss < lowest:
            best, lowest = moved, loss
    step = limit * (1 + 1e-6)
    for _ in range(tries if step < float("inf") else 0):
        moved = weight - step * slope
        moved = moved * largest_mask(moved.abs()[None], count)[0]
        loss = problem.loss(moved, problem.residual(moved))
        if loss >= lowest:
            break
        best, lowest, step = moved, loss, 2 * step
    return best, lowest


def _support_changes(weight: Tensor, slope: Tensor, support: Tensor) -> float:
    """The smallest step at which a weight off the support becomes as large as one on it."""
    outside = float(slope[~support].abs().max()) if bool((~support).any()) else 0.0
    inward = slope[support] * weight[support].sign()  # a positive slope lowers the magnitude
    closing = inward + outside
    steps = torch.where(closing > 0, weight[support].abs() / closing.clamp_min(1e-300), torch.inf)
    return float(steps.min()) if len(steps) else float("inf")


def sparse_regression(problem: Regression, start: Tensor, count: int, rounds: int, solves: int) -> Tensor:
    """(d,) mask of the weights that stay.

    Args:
        problem: the regression.
        start: (d,) mask of ``count`` weights.
        count: k.
        rounds: of thresholding between two exact solutions, at most.
        solves: exact solutions, at most.
    """
    kept, lowest = start, float("inf")
    weight = problem.weight * start
    for _ in track(range(solves), "sparse regression on gradients"):
        for _ in range(rounds):
            moved, _ = threshold_step(problem, weight, count)
            if torch.equal(moved, weight):
                break
            weight = moved
        support = largest_mask(weight.abs()[None], count)[0]
        weight = problem.solved(support)
        loss = problem.loss(weight, problem.residual(weight))
        if loss >= lowest * (1 - 1e-9):
            break
        same = torch.equal(support, kept) and lowest < float("inf")
        kept, lowest = support, loss
        if same:
            break
    return kept


class CHITASelection(Selection[EdgeLayer]):
    """Chooses the kept set of the whole network jointly; only the sum of the layers' counts is used.

    Args:
        samples: number of single-sample gradients N; None takes the whole calibration set.
        damping: lambda.
        rounds: of thresholding between two exact solutions, at most.
        solves: exact solutions, at most.
        first_order: whether the gradient at the dense weights is part of the model (equation 5).
        labels: ``true`` (as published) or ``sampled``.
        memory_gb: bound on the memory of the gradients.
    """

    joint = True
    block = "full"  # of the repair that shares the settings

    def __init__(
        self,
        samples: int | None = None,
        damping: float = 1e-3,
        rounds: int = 50,
        solves: int = 5,
        first_order: bool = True,
        labels: str = "true",
        memory_gb: float = 4.0,
    ) -> None:
        if rounds < 0 or solves < 1:
            raise BadInput(
                f"selection.rounds={rounds} solves={solves}: expected 0 or more rounds and 1 or more solutions\n"
                "type selection.rounds=50 selection.solves=5"
            )
        self.settings = Samples(samples, labels, memory_gb)
        self.damping = checked_damping(damping, "selection", positive=True)
        self.rounds, self.solves, self.first_order = rounds, solves, first_order

    def select_all(self, layers: Sequence[EdgeLayer], counts: Mapping[str, int | Tensor]) -> dict[str, Tensor]:
        """Masks (out, d) that together keep as many weights as the counts together."""
        gradients = shared_gradients(layers, self.settings)
        live = torch.cat([layer.live.flatten() for layer in layers])
        weight = torch.cat([layer.weight.flatten() for layer in layers])
        total = sum(int(count.sum()) if isinstance(count, Tensor) else count for count in counts.values())
        total = min(total, int(live.sum()))
        matrix = gradients.matrix if bool(live.all()) else gradients.matrix[:, live]
        problem = Regression(matrix, weight[live], self.damping, self.first_order)
        start = largest_mask(problem.weight.abs()[None], total)[0]
        kept = live.clone()
        kept[live] = sparse_regression(problem, start, total, self.rounds, self.solves)
        return {layer.name: kept[gradients.columns[layer.name]].view_as(layer.weight) for layer in layers}
