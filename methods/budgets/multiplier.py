"""Find how many nodes each group keeps if every node must be worth a common multiple of its cost.

A node costs the weights that write it and those that read it, and both depend on how many nodes the groups before and
behind it keep: in parameters and in MACs the cost C(k) of a network with k_g nodes in group g is a polynomial of second
degree in k. For a multiplier mu the counts

    argmax_k  sum_g V_g(k_g) - mu C(k),    V_g(k) = what the best k nodes of group g are worth,

have the largest value of all networks that cost no more than they do (Everett, "Generalized Lagrange multiplier
method", Operations Research 1963). The maximum is approached by setting groups one at a time, and coupled ones two at
a time, to their best counts given the others, from the dense and from the smallest network; the better end is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from methods.budgets.budget import Counts, Family

Spend = Callable[[Counts], float]  # what the whole network costs, in the budget's unit, at given counts
ROUNDS = 50  # of setting every group; a handful suffices
GRID = 2**24  # pairs of counts that are evaluated at a time


class CoupledPrices:
    """Holds the groups of a network, the worth of their nodes, and their joint cost.

    Args:
        names: of the groups.
        gains: for each group (m,) float64 what the first, second, ... kept node adds; non-increasing, or made so.
        least: nodes that each group keeps at least.
        spend: cost of the network at given counts, of second degree in them.
    """

    def __init__(self, names: Sequence[str], gains: Sequence[Tensor], least: Sequence[int], spend: Spend) -> None:
        self.names, self.least, self.spend = list(names), list(least), spend
        self.sizes = [len(gain) for gain in gains]
        self.gains = [gain.double().cummin(0).values for gain in gains]
        self.worth = [torch.cat([gain.new_zeros(1), gain.cumsum(0)]) for gain in self.gains]
        origin = [0] * len(names)
        self.fixed = self._cost(origin)
        self.linear, self.square = self._own(origin)
        self.coupled = {
            (i, j): value
            for i, j in combinations(range(len(names)), 2)
            if abs(value := self._mixed(i, j)) > 1e-9 * max(1.0, self.fixed)
        }

    def family(self) -> Family:
        """Counts for s in [0, 1]: mu falls geometrically from where nothing is worth its cost to where everything is.

        s = 1 also keeps nodes that are worth nothing.
        """
        positive = torch.cat([gain[gain > 0] for gain in self.gains])
        sizes = dict(zip(self.names, self.sizes, strict=True))
        if len(positive) == 0:
            spread = list(zip(self.names, self.least, self.sizes, strict=True))
            return lambda s: {name: low + round(s * (size - low)) for name, low, size in spread}
        prices = [self._price(g, at) for g in range(len(self.names)) for at in (self.least, self.sizes)]
        high = 1.01 * float(positive.max()) / max(min(prices), 1e-300)
        low = 0.99 * float(positive.min()) / max(prices)

        def counts(s: float) -> Counts:
            if s >= 1:
                return sizes
            best = self.best(high ** (1 - s) * low**s)
            return dict(zip(self.names, best, strict=True))

        return counts

    def best(self, multiplier: float) -> list[int]:
        """The counts of largest worth - ``multiplier`` x cost that the search finds."""
        ends = [self._climb(list(start), multiplier) for start in (self.sizes, self.least)]
        return max(ends, key=lambda counts: self.value(counts, multiplier))

    def value(self, counts: Sequence[int], multiplier: float) -> float:
        """Worth - ``multiplier`` x cost."""
        worth = sum(float(total[k]) for total, k in zip(self.worth, counts, strict=True))
        cost = self.fixed + sum(a * k + b * k * k for a, b, k in zip(self.linear, self.square, counts, strict=True))
        return worth - multiplier * (cost + sum(c * counts[i] * counts[j] for (i, j), c in self.coupled.items()))

    def _climb(self, counts: list[int], multiplier: float) -> list[int]:
        for _ in range(ROUNDS):
            before = list(counts)
            for g in range(len(counts)):
                counts[g] = self.least[g] + int(self._alone(g, counts, multiplier).argmax())
            if counts == before and not self._pairs(counts, multiplier):
                break
        return counts

    def _pairs(self, counts: list[int], multiplier: float) -> bool:
        """Set each pair of coupled groups to their best counts together; return whether any count changed."""
        changed = False
        for (i, j), mixed in self.coupled.items():
            first, second = self._alone(i, counts, multiplier, but=j), self._alone(j, counts, multiplier, but=i)
            if len(first) * len(second) > GRID:
                continue
            a = torch.arange(self.least[i], self.sizes[i] + 1, dtype=torch.float64)
            b = torch.arange(self.least[j], self.sizes[j] + 1, dtype=torch.float64)
            together = first[:, None] + second - multiplier * mixed * a[:, None] * b
            row, column = divmod(int(together.argmax()), len(b))
            here = float(together[counts[i] - self.least[i], counts[j] - self.least[j]])
            if float(together[row, column]) > here + 1e-12 * abs(here):
                counts[i], counts[j] = self.least[i] + row, self.least[j] + column
                changed = True
        return changed

    def _alone(self, g: int, counts: Sequence[int], multiplier: float, but: int | None = None) -> Tensor:
        """Worth - cost of group g at each of its counts from the least on, without its coupling with group ``but``."""
        slope = self.linear[g]
        for (i, j), mixed in self.coupled.items():
            other = j if i == g else i if j == g else None
            if other is not None and other != but:
                slope += mixed * counts[other]
        k = torch.arange(self.least[g], self.sizes[g] + 1, dtype=torch.float64)
        return self.worth[g][self.least[g] :] - multiplier * (slope * k + self.square[g] * k * k)

    def _price(self, g: int, counts: Sequence[int]) -> float:
        """What one more node of group g costs at these counts of the others."""
        mixed = sum(c * counts[j if i == g else i] for (i, j), c in self.coupled.items() if g in (i, j))
        return self.linear[g] + self.square[g] * (2 * counts[g] + 1) + mixed

    def _cost(self, counts: Sequence[int]) -> float:
        return self.spend(dict(zip(self.names, counts, strict=True)))

    def _own(self, origin: Sequence[int]) -> tuple[list[float], list[float]]:
        linear, square = [], []
        for g in range(len(origin)):
            one, two = (self._cost([k if h == g else 0 for h in range(len(origin))]) - self.fixed for k in (1, 2))
            square.append((two - 2 * one) / 2)
            linear.append(one - square[-1])
        return linear, square

    def _mixed(self, i: int, j: int) -> float:
        at = [int(h in (i, j)) for h in range(len(self.names))]
        alone = sum(self.linear[g] + self.square[g] for g in (i, j))
        return self._cost(at) - self.fixed - alone
