"""SuRP keeps the weights that a successively refined description of the network names first.

Isik, Weissman and No, "An Information-Theoretic Justification for Model Pruning" (AISTATS 2022, arXiv 2102.08329): the
rate-distortion theory of a Laplacian source under absolute error asks for sparse reconstructions. All weights of the
network, each layer divided by its norm, are n magnitudes u, described one step at a time with a threshold T, a multiple
alpha of their mean at first:

    one of the u above T is drawn, named, and lowered by T;    T becomes (n - 1) / n T.

Where none is above T, T is set to alpha times the mean of what is left, and alpha falls by a tenth at every twentieth
time (as in the authors' code). A weight that has been named is kept.

In the paper the kept weights are then replaced by the sums of what was taken from them, which is what a decoder knows.
Here only the masks are used, so that the weights of all methods are treated alike. Every layer keeps at least one.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from methods.budgets.budget import Count
from methods.errors import BadInput
from methods.layers.seen import EdgeLayer
from methods.selection import Selection

REFRESHED = 20  # times, after which alpha falls
FALL = 0.9
PATIENCE = 200  # steps for each weight, after which the largest of the other weights follow in order


class Refinement:
    """A description of magnitudes that is refined step by step and can be continued.

    Args:
        magnitudes: (n,) non-negative.
        alpha: the threshold's first multiple of their mean.
        seed: of the draws.
    """

    def __init__(self, magnitudes: np.ndarray, alpha: float, seed: int) -> None:
        self.left, self.alpha, self.draw = magnitudes.astype(float).copy(), alpha, np.random.default_rng(seed)
        self.count, self.total = len(magnitudes), float(magnitudes.sum())
        self.order: list[int] = []  # the weights that have been named, each once
        self.named = np.zeros(self.count, dtype=bool)
        self.refreshed = self.steps = 0
        self.threshold = alpha * self.total / self.count
        self.below = [(-value, unit) for unit, value in enumerate(self.left)]  # those not above the threshold
        heapq.heapify(self.below)
        self.above: list[int] = []

    def first(self, many: int) -> np.ndarray:
        """The first ``many`` weights that are named."""
        while len(self.order) < many and self.steps < PATIENCE * self.count and self.total > 0:
            self._step()
        if len(self.order) < many:
            rest = np.flatnonzero(~self.named)
            self.order += rest[np.argsort(-self.left[rest], kind="stable")].tolist()
            self.named[:] = True
        return np.array(self.order[:many], dtype=np.int64)

    def _step(self) -> None:
        self.steps += 1
        while self.below and -self.below[0][0] > self.threshold:
            self.above.append(heapq.heappop(self.below)[1])
        if not self.above:
            self.refreshed += 1
            if self.refreshed % REFRESHED == 0:
                self.alpha *= FALL
            self.threshold = self.alpha * self.total / self.count
            return
        place = int(self.draw.integers(len(self.above)))
        unit = self.above[place]
        self.left[unit] -= self.threshold
        self.total -= self.threshold
        if not self.named[unit]:
            self.named[unit] = True
            self.order.append(unit)
        self.threshold *= (self.count - 1) / self.count
        if self.left[unit] <= self.threshold:
            self.above[place] = self.above[-1]
            self.above.pop()
            heapq.heappush(self.below, (-self.left[unit], unit))


class SuRPSelection(Selection[EdgeLayer]):
    """Keeps the weights that a successively refined description of the network names first.

    Args:
        alpha: the threshold's first multiple of the mean magnitude.
    """

    joint = True

    def __init__(self, alpha: float = 10.0) -> None:
        if alpha <= 0:
            raise BadInput(f"selection.alpha={alpha:g} is not above 0; type selection.alpha=10")
        self.alpha = alpha

    def select_all(self, layers: Sequence[EdgeLayer], counts: Mapping[str, Count]) -> dict[str, Tensor]:
        """Masks of all layers, which together keep as many weights as ``counts`` add up to."""
        total = sum(int(count.sum()) if isinstance(count, Tensor) else count for count in counts.values())
        live = [layer.live.flatten() for layer in layers]
        places = torch.cat([mask.nonzero().flatten() + start for mask, start in zip(live, _starts(live), strict=True)])
        owner = torch.repeat_interleave(torch.arange(len(layers)), torch.tensor([int(mask.sum()) for mask in live]))
        refinement = layers[0].once(("SuRP", self.alpha), lambda: self._refinement(layers))
        chosen = _one_of_each(torch.from_numpy(refinement.first(total)), owner, _magnitudes(layers))
        mask = torch.zeros(sum(map(len, live)), dtype=torch.bool)
        mask[places.cpu()[chosen]] = True
        parts = mask.split([len(each) for each in live])
        return {
            layer.name: part.view(layer.live.shape).to(layer.live.device)
            for layer, part in zip(layers, parts, strict=True)
        }

    def _refinement(self, layers: Sequence[EdgeLayer]) -> Refinement:
        seed = int(torch.randint(2**62, (), generator=layers[0].generator))
        return Refinement(_magnitudes(layers).numpy(), self.alpha, seed)


def _starts(parts: Sequence[Tensor]) -> list[int]:
    return [sum(map(len, parts[:number])) for number in range(len(parts))]


def _magnitudes(layers: Sequence[EdgeLayer]) -> Tensor:
    """Absolute values of all live weights, divided by their layer's norm."""
    parts = []
    for layer in layers:
        values = layer.weight[layer.live].abs().cpu()
        parts.append(values / values.norm().clamp_min(torch.finfo(values.dtype).tiny))
    return torch.cat(parts)


def _one_of_each(chosen: Tensor, owner: Tensor, magnitudes: Tensor) -> Tensor:
    """``chosen``, with the largest weight of each layer that has none in place of the last weights of other layers."""
    kept = chosen.tolist()
    counts = torch.bincount(owner[chosen], minlength=int(owner.max()) + 1).tolist()
    for layer, count in enumerate(counts):
        if count:
            continue
        own = (owner == layer).nonzero().flatten()
        place = next((p for p in range(len(kept) - 1, -1, -1) if counts[int(owner[kept[p]])] > 1), None)
        if place is None:
            continue
        counts[int(owner[kept[place]])] -= 1
        counts[layer] = 1
        kept[place] = int(own[magnitudes[own].argmax()])
    return torch.tensor(kept, dtype=torch.int64)
