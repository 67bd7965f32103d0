"""Choose a size for each layer with the least total error within a budget: dynamic programming over discretised costs.

As in Frantar and Alistarh, "SPDY: Accurate Pruning with Speedup Guarantees" (ICML 2022), section 3.2: with costs in
whole buckets, the least error of the first l layers at cost b is

    E_l(b) = min over sizes of  e_l(size) + E_{l-1}(b - c_l(size)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BUCKETS = 10_000  # as in the authors' code


def cheapest(
    errors: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], limit: float, buckets: int = BUCKETS
) -> list[int] | None:
    """For each layer the number of its size; None where not even the smallest sizes fit.

    Costs are rounded to the nearest bucket, so the limit can be exceeded by half a bucket a layer.

    Args:
        errors: for each layer and size.
        costs: likewise, non-negative.
        limit: of the sum of costs, above 0.
        buckets: how finely costs are told apart.
    """
    unit = limit / buckets
    whole = [[round(cost / unit) for cost in own] for own in costs]
    best = np.full(buckets + 1, np.inf)
    best[0] = 0.0
    choices = []
    for own_errors, own_costs in zip(errors, whole, strict=True):
        following, choice = np.full(buckets + 1, np.inf), np.full(buckets + 1, -1)
        for number, (error, cost) in enumerate(zip(own_errors, own_costs, strict=True)):
            if cost > buckets:
                continue
            reached = best[: buckets + 1 - cost] + error
            better = reached < following[cost:]
            following[cost:][better] = reached[better]
            choice[cost:][better] = number
        best = following
        choices.append(choice)
    at = int(best.argmin())
    if not np.isfinite(best[at]):
        return None
    chosen = []
    for choice, own_costs in zip(reversed(choices), reversed(whole), strict=True):
        chosen.append(int(choice[at]))
        at -= own_costs[chosen[-1]]
    return chosen[::-1]
