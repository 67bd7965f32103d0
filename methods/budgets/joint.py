"""Meet a budget with a selection that distributes the kept units over the layers itself and only needs their number.

The number of weights determines the parameters but not the MACs: those depend on where the weights lie, which only the
selection decides. It is therefore asked again, with other totals, until the cost is met.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from methods.budgets.budget import Budget, Cost, CountCost

ATTEMPTS = 12  # secant steps; four or five suffice on LeNet-5

Masks = dict[str, Tensor]


def choose_jointly(
    budget: Budget, choose: Callable[[int], Masks], first: int, most: int, cost: CountCost, dense: Cost
) -> Masks:
    """The masks, of those tried, whose cost is nearest to the budget: the first ones within its tolerance.

    Secant steps for log(cost) as a function of log(total), which starts with slope 1; a step out of the bracket that is
    known so far becomes a bisection.

    Args:
        budget: the request, for the whole model.
        choose: returns boolean masks by layer that together keep a given number of units.
        first: the total to start with, which for ``keep`` and ``compression`` is the right one.
        most: the largest possible total.
        cost: computes the cost of given counts by layer.
        dense: cost of the dense network.
    """
    limit = budget.remaining * dense.of(budget.kind)
    low, high, slope = 0.0, math.log(most), 1.0
    total, before = first, None
    tried: dict[int, tuple[float, Masks]] = {}
    while total not in tried and len(tried) < ATTEMPTS:
        masks = choose(total)
        spent = cost({name: int(mask.sum()) for name, mask in masks.items()}).of(budget.kind)
        tried[total] = math.log(spent / limit), masks
        if abs(spent / limit - 1) <= budget.tolerance:
            return masks
        x, y = math.log(total), tried[total][0]
        low, high = (low, x) if y > 0 else (x, high)
        if before is not None and x != before[0] and (y - before[1]) / (x - before[0]) > 0:
            slope = (y - before[1]) / (x - before[0])
        before = x, y
        following = x - y / slope
        total = min(most, max(1, round(math.exp(following if low < following < high else (low + high) / 2))))
    return min(tried.values(), key=lambda found: abs(found[0]))[1]


def spread_of(names: Mapping[str, object], total: int) -> dict[str, int]:
    """Return counts by layer with this sum, for a selection that looks at nothing but the sum."""
    return {name: total if number == 0 else 0 for number, name in enumerate(names)}
