"""Find the sizes at which a network meets its budget: bisection along an allocation's family, then single units."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from methods.budgets.budget import Budget, Cost, Count, CountCost, Counts, Family
from methods.errors import Unreachable

MEASUREMENTS = 10  # bisection steps of a measured cost


def meet(
    budget: Budget,
    family: Family,
    cost: CountCost,
    dense: Cost,
    partial: bool = False,
    steps: Mapping[str, Sequence[int]] | None = None,
) -> tuple[Counts, str | None]:
    """Counts of the family's member that meets the budget, and a note if the nearest reachable one is off by over 1 %.

    Bisection on the family's scalar finds the two neighbouring members around the budget; between them single units
    are added layer by layer, and of all these the closest is taken. Where that is off by more than 1 %, because one
    unit of a narrow layer costs too much, such layers stay as they are and the others go on along the family. A
    measured cost (latency) is evaluated only a dozen times, since single units are below its resolution.

    Args:
        budget: the request, for the whole model.
        family: counts as a function of s in [0, 1], monotone, with s = 1 keeping everything.
        cost: computes the cost of given counts.
        dense: cost of the dense network.
        partial: accept the smallest member where even that costs more than the budget.
        steps: for each layer the allowed sizes, ascending; None if every size is allowed.

    Raises:
        BadInput: if, not ``partial``, even the smallest member costs more than the budget.
    """
    limit = budget.remaining * dense.of(budget.kind)
    tolerance = budget.tolerance
    low, high = family(0.0), family(1.0)
    if partial and cost(low).of(budget.kind) > limit * (1 + tolerance):
        reach = cost(low).achieved(dense)[budget.kind]
        return low, f"the method's rule stopped at {budget.kind}={reach:.4g}, short of the requested {budget.value:g}"
    if partial and cost(low).of(budget.kind) >= limit * (1 - tolerance):
        return low, None
    if _alike(low, high):
        reached = cost(high).achieved(dense)[budget.kind]
        return high, f"the allocation fixes the sizes ({budget.kind}={reached:.4g}); the budget was not consulted"
    if cost(high).of(budget.kind) <= limit * (1 + tolerance if budget.measured else 1):
        return high, None
    if cost(low).of(budget.kind) > limit * (1 + tolerance):
        reach = cost(low).achieved(dense)[budget.kind]
        raise Unreachable(
            f"budget.{budget.kind}={budget.value:g} cannot be reached: the smallest network of this allocation "
            f"has {budget.kind}={reach:.3g}; ask for {'more' if budget.kind == 'keep' else 'less'}"
        )
    bottom, top = 0.0, 1.0
    for _ in range(MEASUREMENTS if budget.measured else 50):
        middle = (bottom + top) / 2
        counts = family(middle)
        if cost(counts).of(budget.kind) <= limit:
            bottom, low = middle, counts
        else:
            top, high = middle, counts

    def off(counts: Counts) -> float:
        return cost(counts).of(budget.kind) / limit - 1

    between = [low, high] if budget.measured else _between(low, high, steps)
    chosen = min(between, key=lambda counts: abs(off(counts)))
    if not budget.measured and shortfall(budget, cost(chosen), dense, "off") is not None:
        held = _holding(low, family, bottom, lambda counts: off(counts) <= 0, steps)
        chosen = min(chosen, *held, key=lambda counts: abs(off(counts)))
    return chosen, shortfall(budget, cost(chosen), dense, "nearest reachable size")


def shortfall(budget: Budget, cost: Cost, dense: Cost, why: str) -> str | None:
    """A note that the achieved size is off the budget by more than the tolerance; None where it is not."""
    achieved = cost.achieved(dense)[budget.kind]
    if abs(achieved / budget.value - 1) <= budget.tolerance:
        return None
    return f"{why}: {budget.kind}={achieved:.4g} for the requested {budget.value:g}"


def _alike(first: Counts, second: Counts) -> bool:
    return all(_equal(first[name], second[name]) for name in first)


def _equal(first: Count, second: Count) -> bool:
    return torch.equal(torch.as_tensor(first), torch.as_tensor(second))


def _between(low: Counts, high: Counts, steps: Mapping[str, Sequence[int]] | None = None) -> list[Counts]:
    """``low``, ``high`` and the steps between them, one unit (or one allowed size) of one layer at a time."""
    path = [low]
    current = dict(low)
    if not any(isinstance(count, Tensor) for count in low.values()):
        while (grown := next((name for name in current if current[name] < high[name]), None)) is not None:
            if len(path) > 10_000:  # a jump of one huge layer: only its two ends are considered
                break
            current[grown] = (
                next(size for size in steps[grown] if size > current[grown]) if steps else current[grown] + 1
            )
            path.append(dict(current))
    return [*path, high]


def _holding(
    low: Counts,
    family: Family,
    bottom: float,
    fits: Callable[[Counts], bool],
    steps: Mapping[str, Sequence[int]] | None = None,
) -> Iterator[Counts]:
    """Continue the family from its member ``low`` at ``bottom``; layers whose next step does not fit stay as they are.

    Of a step of many units, a layer takes the part that fits. Yields the counts that did not fit each time a layer is
    fixed, and finally the counts at which all layers are.
    """
    counts, free = dict(low), list(low)

    def at(s: float) -> dict[str, Count]:
        member = family(s)
        return counts | {name: member[name] for name in free}

    while free and not fits(at(1.0)):
        top = 1.0
        for _ in range(50):
            middle = (bottom + top) / 2
            bottom, top = (middle, top) if fits(at(middle)) else (bottom, middle)
        counts, beyond = at(bottom), at(top)
        for name in [name for name in free if not _equal(counts[name], beyond[name])]:
            grown = counts | {name: beyond[name]}
            if fits(grown):
                counts = grown
            else:
                free.remove(name)
                counts = counts | {name: _part(counts, name, beyond[name], fits, steps)}
                yield grown
        bottom = top
    yield at(1.0) if free else counts


def _part(
    counts: Counts, name: str, beyond: Count, fits: Callable[[Counts], bool], steps: Mapping[str, Sequence[int]] | None
) -> Count:
    """The largest size of a layer on the way to ``beyond`` that fits, where sizes are numbers."""
    here = counts[name]
    if isinstance(here, Tensor) or isinstance(beyond, Tensor):
        return here
    sizes = [here, *(range(here + 1, beyond) if steps is None else (k for k in steps[name] if here < k < beyond))]
    return sizes[bisect_right(sizes[1:], False, key=lambda size: not fits({**counts, name: size}))]
