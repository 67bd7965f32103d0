"""ALPS: least squares on a layer's output under a limit on its number of weights, by ADMM.

Meng, Behdin, Wang and Mazumder, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language
Models", NeurIPS 2024. With W^ (out, d) the dense weights and H (d, d) the damped second moment of the inputs, scaled to
a unit diagonal together with the weights,

    min over W, D of  Tr (W - W^) H (W - W^)^T / 2     subject to  W = D,  D has at most k nonzeros,

is solved by alternating

    W <- (H W^ - V + rho D) (H + rho I)^-1,    D <- the k largest entries of W + V / rho,    V <- V + rho (W - D).

Every third round rho is adapted to how much the support of D has changed: larger by a factor 1.3, 1.2 or 1.1 where more
than 10 %, more than 0.5 % or any of k have; before the first growth it shrinks by 5, as long as few or none have. The
penalty's growth makes W and D meet: max(||D' - D||, ||W' - D'||) <= C / rho (theorem 1). What stays are the k largest
entries of the last W. The paper then solves for the weights on the support by conjugate gradients; here the method's
repair does that (``compensation=least_squares``). In a grouped convolution H has a block for each group, and all groups
share k.

A lower bound for every choice of k weights, which is ours, is reported, too: with lambda the smallest eigenvalue of H,
no choice has an error below lambda times the sum of the smallest squares of the scaled weights that have to go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from methods.budgets.budget import Count
from methods.errors import BadInput
from methods.layers.seen import EdgeLayer
from methods.selection import Selection, largest_mask

Projection = Callable[[Tensor], Tensor]  # squares, in the shape of the weights -> boolean mask of what stays
UPDATE = 3  # rounds between changes of rho
LEAST = 30  # rounds before a nearly settled support ends the search
LARGEST = 1e6  # rho


class Problem(NamedTuple):
    """A layer's problem with inputs scaled to unit mean square; of a grouped convolution with a dimension in front.

    Attributes:
        system: (d, d) H with a unit diagonal, float64; (groups, d, d).
        weight: (out, d) W^ times the scales; (groups, out / groups, d).
        scale: (d,) root of the damped H's diagonal; (groups, d).
        energy: Tr W^ H W^T, which errors are relative to.
    """

    system: Tensor
    weight: Tensor
    scale: Tensor
    energy: float


def scaled(weight: Tensor, second: Tensor, damping: float) -> Problem:
    """The problem of (out, d) weights that read inputs of second moment (d, d); ``damping`` is relative to its mean.

    Both may have a dimension of groups in front.
    """
    mean = second.diagonal(dim1=-2, dim2=-1).mean(-1)
    level = torch.where(mean > 0, damping * mean, 1.0)[..., None, None]
    system = second + level * torch.eye(second.shape[-1], dtype=second.dtype, device=second.device)
    scale = system.diagonal(dim1=-2, dim2=-1).sqrt()
    system, own = system / scale[..., None, :] / scale[..., None], weight * scale[..., None, :]
    return Problem(system, own, scale, float(((own @ system) * own).sum()))


class Round(NamedTuple):
    """The state after a round of ADMM: W, D (out, d) and rho."""

    free: Tensor
    sparse: Tensor
    rho: float


def admm(problem: Problem, project: Projection, count: int, rho: float = 0.1, rounds: int = 300) -> list[Round]:
    """Yield the rounds of ALPS until the support no longer changes, at least one.

    Args:
        problem: of the layer.
        project: which entries may stay, by their squares.
        count: number of entries that stay.
        rho: the penalty at the beginning.
        rounds: largest number of rounds.
    """
    values, vectors = torch.linalg.eigh(problem.system)
    target = problem.weight @ problem.system
    first = problem.weight * project(problem.weight.square())
    sparse, dual = first, torch.zeros_like(first)
    support, grown, done = sparse != 0, False, []
    for number in range(1, rounds + 1):
        free = ((target - dual + rho * sparse) @ vectors / (values[..., None, :] + rho)) @ vectors.mT
        sparse = free + dual / rho
        sparse = sparse * project(sparse.square())
        dual = dual + rho * (free - sparse)
        done.append(Round(free, sparse, rho))
        if number % UPDATE:
            continue
        changed = int((support != (sparse != 0)).sum())
        support, share = sparse != 0, changed / max(count, 1)
        if share > 0.005:
            grown, rho = True, rho * (1.3 if share > 0.1 else 1.2)
        elif grown:
            if changed == 0:
                break
            rho *= 1.1
        else:  # so far W follows D without moving it: use a smaller penalty
            rho /= 5
            if changed:
                sparse, dual = first, torch.zeros_like(first)
        rho = min(rho, LARGEST)
        if number >= LEAST and share < 0.0003:
            break
    return done


def lower_bound(problem: Problem, project: Projection) -> float:
    """Lower bound of the error for every choice that ``project`` allows, relative to the energy; 0 if H is singular."""
    smallest = torch.linalg.eigvalsh(problem.system).min().clamp_min(0)
    gone = problem.weight.square() * ~project(problem.weight.square())
    return float(smallest * gone.sum()) / max(problem.energy, torch.finfo(torch.float64).tiny)


class ALPSSelection(Selection[EdgeLayer]):
    """Keeps in each layer the weights on which ADMM for the layer's output error settles. Combine with least squares.

    Args:
        damping: added to H's diagonal, relative to its mean.
        rho: penalty at the beginning.
        rounds: largest number of rounds of ADMM.
    """

    def __init__(self, damping: float = 0.01, rho: float = 0.1, rounds: int = 300) -> None:
        if not damping > 0 or not rho > 0 or rounds < 1:
            raise BadInput(
                f"selection.damping={damping:g}, rho={rho:g}, rounds={rounds}: expected a positive damping, a positive "
                "penalty and a number of rounds\ntype selection.damping=0.01 selection.rho=0.1 selection.rounds=300"
            )
        self.damping, self.rho, self.rounds = damping, rho, rounds

    def select(self, layer: EdgeLayer, k: Count) -> Tensor:
        """Mask (out, d) of the k weights that stay, or of k[i] in row i."""

        def project(squares: Tensor) -> Tensor:
            return largest_mask(squares.masked_fill(~layer.live, -torch.inf), k)

        return self._settled(layer, project, int(k.sum()) if isinstance(k, Tensor) else k)

    def select_pattern(self, layer: EdgeLayer, pattern: Any) -> Tensor:
        """The same where n of every m inputs stay; see :mod:`methods.unstructured.n_m`."""
        return self._settled(layer, lambda squares: pattern.mask(layer, squares), pattern.counts(layer))

    def report(self, layer: EdgeLayer, kept: Tensor) -> dict[str, float]:
        """Lower bound of the layer's relative output error for any choice of as many weights, and ADMM's rounds."""
        return layer.shared.get(("ALPS", layer.name), {})

    def _settled(self, layer: EdgeLayer, project: Projection, count: int) -> Tensor:
        weight, seconds = layer.weight * layer.live, [own.second for own in layer.moments_of_groups]
        if layer.groups == 1:
            problem = scaled(weight, seconds[0], self.damping)
        else:
            problem = scaled(weight.unflatten(0, (layer.groups, -1)), torch.stack(seconds), self.damping)

        def largest(squares: Tensor) -> Tensor:
            return project(squares.view_as(layer.live)).view_as(squares)

        done = admm(problem, largest, count, self.rho, self.rounds)
        bound = lower_bound(problem, largest)
        layer.shared["ALPS", layer.name] = {"lower_bound": bound, "rounds": float(len(done))}
        return largest(done[-1].free.square()).view_as(layer.live)
