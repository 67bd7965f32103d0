"""Combinatorial Brain Surgeon (Yu, Serra, Ramalingam & Zhe, ICML 2022): the selection, CBS-S.

Which set P of weights, of a given size, costs least when removed together and nothing else moves?

    obj(P) = w_P^T H_PP w_P = (1/N) ||r||^2,    r = sum_{i in P} a_i,   a_i = w_i g_i in R^N

H = G^T G / N is the empirical Fisher; g_i is the column of G (N, d) that belongs to weight i, so H is never formed. The
start is the best of several sets of small weights (magnitude with random perturbations, RMP), the search exchanges
pairs. Un-pruning i frees alpha_i, pruning j costs beta_j, and both at once change obj by -alpha_i + beta_j - gamma_ij:

    alpha_i = 2 a_i.r/N - ||a_i||^2/N,    beta_j = 2 a_j.r/N + ||a_j||^2/N,    gamma_ij = 2 a_i.a_j/N

The paper's second half, CBS-U, is the exact group update: ``methods.hessian.obs.OBSCompensation(update="group")``.
Differences from the authors' code, on purpose: swap candidates are all kept weights (there, large negative ones are
left out), and the losses that choose start and end of the search are measured on calibration samples of the training
set, never on test images. The tolerance refers to obj as written here (there, it depends on N).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from methods.errors import BadInput, Collapsed
from methods.layers.gradients import Samples, sample_losses, shared_gradients
from methods.layers.seen import EdgeLayer
from methods.network.kinds.registry import kind_of
from methods.network.parameters import weight_of
from methods.network.reading import evaluating
from methods.progress import track
from methods.selection import Selection

CHUNK = 4096  # columns of G that are squared at a time
WINDOW = 256  # candidates whose gradients are gathered at a time

Loss = Callable[[Tensor], float]  # of the network that keeps the weights in a mask (d,)


class Objective:
    """Computes obj(P) and how swaps change it.

    Args:
        gradients: G (N, d).
        weight: (d,).
    """

    def __init__(self, gradients: Tensor, weight: Tensor) -> None:
        self.gradients = gradients
        self.weight = weight.to(gradients)
        squares = torch.cat([part.square().sum(0) for part in gradients.split(CHUNK, 1)])  # no second matrix of squares
        self.own = (squares * self.weight.square()).double() / len(gradients)  # w_i^2 H_ii

    def residual(self, pruned: Tensor) -> Tensor:
        """R (N,) for the mask ``pruned`` (d,)."""
        return self.gradients @ torch.where(pruned, self.weight, 0.0)

    def value(self, pruned: Tensor) -> float:
        """obj(P)."""
        return float(self.residual(pruned).double().square().mean())

    def gains(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(d,) alpha, valid where pruned, and (d,) beta, valid where kept."""
        cross = 2 * (self.weight * (residual @ self.gradients)).double() / len(self.gradients)
        return cross - self.own, cross + self.own

    def gamma(self, i: int) -> Tensor:
        """(d,) gamma_ij for all j."""
        image = (self.gradients[:, i] * self.weight[i]) @ self.gradients
        return 2 * (self.weight * image).double() / len(self.gradients)

    def vectors(self, indices: Tensor) -> Tensor:
        """(k, N) the a_i of some weights."""
        return (self.gradients[:, indices] * self.weight[indices]).T.contiguous()


def swap_pass(
    objective: Objective, pruned: Tensor, reach: int = 10, failures: int = 20, tolerance: float = 1e-6
) -> Tensor:
    """One pass of pairwise exchanges; returns the new mask, equal to ``pruned`` where no swap gains ``tolerance``.

    Pruned weights are visited by falling alpha, each is tried against kept weights at about the same place in the order
    of beta_j - gamma_{first,j}, and the first exchange that gains enough is made. Gains count all swaps made before.

    Args:
        objective: the objective.
        pruned: (d,) mask of P; its size is kept.
        reach: how many places before and after the partner may stand.
        failures: the pass ends when more pruned weights than this found no partner.
        tolerance: least decrease of obj by a swap.
    """
    residual = objective.residual(pruned)
    alpha, beta = objective.gains(residual)
    leaving = torch.where(pruned, alpha, -math.inf).argsort(descending=True, stable=True)[: int(pruned.sum())]
    if len(leaving) in (0, len(pruned)):
        return pruned
    cost = torch.where(pruned, math.inf, beta - objective.gamma(int(leaving[0])))
    entering = cost.argsort(stable=True)[: len(pruned) - len(leaving)]
    result, samples = pruned.clone(), len(residual)
    used = torch.zeros(len(entering), dtype=torch.bool, device=pruned.device)
    failed = 0
    for start in range(0, min(len(leaving), len(entering) + reach), WINDOW):
        first = max(0, start - reach)
        out = objective.vectors(leaving[start : start + WINDOW])
        into = objective.vectors(entering[first : start + WINDOW + reach])
        squares = into.square().sum(1)
        for offset, vector in enumerate(out):
            i = start + offset
            low, high = (0, 1) if i == 0 else (max(1, i - reach), min(i + reach, len(entering)))
            without = residual - vector
            change = 2 * (into[low - first : high - first] @ without) + squares[low - first : high - first]
            change = (change + (without @ without - residual @ residual)) / samples
            found = ((change <= -tolerance) & ~used[low:high]).nonzero()
            if len(found) == 0:
                failed += 1
                if i == 0 or failed > failures:
                    return result
                continue
            j = low + int(found[0])
            used[j] = True
            result[leaving[i]], result[entering[j]] = False, True
            residual = without + into[j - first]
    return result


def local_search(
    objective: Objective,
    start: Tensor,
    loss: Loss,
    step: Callable[[Objective, Tensor], Tensor] = swap_pass,
    passes: int = 100,
    patience: int = 7,
) -> Tensor:
    """Passes of swaps until none gains; of all sets met, the one whose masked network has the lowest loss.

    It also ends, after three passes at least, when the loss is above its best and that best is ``patience`` passes old.
    """
    pruned = best = start
    lowest, age = loss(~start), 0
    for done in track(range(1, passes + 1), "swap search"):
        following = step(objective, pruned)
        if torch.equal(following, pruned):
            break
        pruned, age = following, age + 1
        current = loss(~pruned)
        if current < lowest:
            best, lowest, age = pruned, current, 0
        elif current > lowest and age >= patience and done >= 3:
            break
    return best


def perturbed_magnitude(weight: Tensor, pruned: int, trials: int, loss: Loss, generator: torch.Generator) -> Tensor:
    """RMP: the best by ``loss`` of ``trials`` masks of ``pruned`` small weights.

    Trial 0 is global magnitude. Every other trial shuffles the weights into about sqrt(d) chunks (at most 1000) and
    prunes the smallest of each chunk.
    """
    size = len(weight)
    magnitude = weight.abs()
    chunks = min(1000, max(1, math.isqrt(size)))
    edges = [size * c // chunks for c in range(chunks + 1)]
    best, lowest = None, math.inf
    for trial in track(range(max(1, trials)), "magnitude start"):
        mask = torch.zeros(size, dtype=torch.bool, device=weight.device)
        if trial == 0:
            mask[magnitude.argsort(stable=True)[:pruned]] = True
        else:
            shuffled = torch.randperm(size, generator=generator).to(weight.device)
            for a, b in itertools.pairwise(edges):
                part = shuffled[a:b]
                count = pruned * b // size - pruned * a // size  # these add up to ``pruned``
                mask[part[magnitude[part].argsort(stable=True)[:count]]] = True
        current = loss(~mask)
        if best is None or current < lowest:
            best, lowest = mask, current
    assert best is not None
    return best


class CBSSelection(Selection[EdgeLayer]):
    """Chooses the pruned set of the whole network jointly; only the sum of the layers' counts is used.

    Args:
        samples: number of single-sample gradients; None takes the whole calibration set (paper: 1000, MLPNet 10 000).
        damping: of the Fisher in the exact update that follows; the search itself uses none.
        trials: number of perturbed magnitude starts (paper: 50); 1 starts from global magnitude.
        reach: how far apart in rank swap partners may be (paper: rho = 10).
        failures: weights without a partner that end a pass (paper: tau = 20).
        tolerance: least decrease of obj by a swap, in units of the loss.
        passes: most passes (paper: 100).
        patience: number of passes without a better loss after which the search ends (paper: 7, MLPNet 5).
        block: blocks of the Fisher in the exact update that follows; the search always uses the full Fisher.
        labels: ``true`` (as published) or ``sampled``.
        memory_gb: bound on the memory of the gradients.
    """

    joint = True

    def __init__(
        self,
        samples: int | None = None,
        damping: float = 1e-3,
        trials: int = 50,
        reach: int = 10,
        failures: int = 20,
        tolerance: float = 1e-6,
        passes: int = 100,
        patience: int = 7,
        block: int | str = "full",
        labels: str = "true",
        memory_gb: float = 4.0,
    ) -> None:
        if trials < 1:
            raise BadInput(
                f"selection.trials={trials} is below 1; expected a number of starts: type selection.trials=50"
            )
        if damping < 0:
            raise BadInput(f"selection.damping={damping:g} is negative; type for instance selection.damping=1e-3")
        self.settings = Samples(samples, labels, memory_gb)
        self.damping, self.block, self.trials = damping, block, trials
        self.reach, self.failures, self.tolerance = reach, failures, tolerance
        self.passes, self.patience = passes, patience

    def select_all(self, layers: Sequence[EdgeLayer], counts: Mapping[str, int | Tensor]) -> dict[str, Tensor]:
        """Masks (out, d) that together keep as many weights as the counts together."""
        gradients = shared_gradients(layers, self.settings)
        live = torch.cat([layer.live.flatten() for layer in layers])
        weight = torch.cat([layer.weight.flatten() for layer in layers])
        total = sum(int(count.sum()) if isinstance(count, Tensor) else count for count in counts.values())
        removed = max(0, int(live.sum()) - total)
        every = bool(live.all())
        objective = Objective(gradients.matrix if every else gradients.matrix[:, live], weight[live])
        network = _masked_loss(layers)

        def spread(kept: Tensor) -> dict[str, Tensor]:
            mask = live.clone()
            mask[live] = kept
            return {layer.name: mask[gradients.columns[layer.name]].view_as(layer.weight) for layer in layers}

        def loss(kept: Tensor) -> float:
            return network(spread(kept))

        def step(objective: Objective, pruned: Tensor) -> Tensor:
            return swap_pass(objective, pruned, self.reach, self.failures, self.tolerance)

        start = perturbed_magnitude(weight[live], removed, self.trials, loss, layers[0].generator)
        return spread(~local_search(objective, start, loss, step, self.passes, self.patience))


def _masked_loss(layers: Sequence[EdgeLayer]) -> Callable[[Mapping[str, Tensor]], float]:
    model, calibration = layers[0].model, layers[0].calibration
    modules = {layer.name: model.get_submodule(layer.name) for layer in layers}

    @torch.no_grad()
    def loss(masks: Mapping[str, Tensor]) -> float:
        masked = {
            f"{name}.weight": weight_of(module).detach() * kind_of(module).stored_like(module, masks[name])
            for name, module in modules.items()
        }
        total = 0.0
        with evaluating(model):
            for x, y in calibration.batches():
                total += float(sample_losses(functional_call(model, masked, (x,)), y).double().sum())
        if not math.isfinite(total):
            raise Collapsed("the masked network's loss on the calibration samples is not finite")
        return total / len(calibration)

    return loss
