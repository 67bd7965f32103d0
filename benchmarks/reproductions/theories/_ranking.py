"""Which theory orders what by the damage, and by which factor the damage exceeds what was predicted."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.boards.stats import spread
from benchmarks.boards.theory import FEWEST, WITHIN, Correlation, Point, within

LOSS = "loss increase"
QUESTIONS = {  # what varies while all else is equal, and the groups in which it does
    "layers of a network": "over layers",
    "budgets of a method": "over budgets",
    "methods at a budget": "over methods",
}
NETWORKS = "networks of a structure"
FACTOR = 2.0  # calibrated: the 95 % interval of measured / predicted lies within this factor of 1
Order = Literal["yes", "the other way round", "undecided"]
Size = Literal["calibrated", "predicts too little", "predicts too much", "undecided"]


@dataclass(frozen=True)
class Ranked:
    """How well a theory orders things by their damage: a mean rank correlation over ``n`` groups or networks."""

    question: str
    theory: str
    damage: str
    tasks: str
    rho: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def orders(self) -> Order:
        """Whether the interval excludes chance."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "undecided"
        return "yes" if self.low > 0 else "the other way round"


@dataclass(frozen=True)
class Calibrated:
    """The geometric mean of measured / predicted over ``n`` cells; the interval is Student's t of the logarithm.

    Attributes:
        left_out: cells in which either is not positive, and no factor exists.
    """

    theory: str
    task: str
    budget: str
    ratio: float | None
    low: float | None
    high: float | None
    n: int
    left_out: int

    @property
    def size(self) -> Size:
        """The verdict on the size of what was predicted."""
        if self.low is None or self.high is None:
            return "undecided"
        if self.low >= 1 / FACTOR and self.high <= FACTOR:
            return "calibrated"
        return "predicts too little" if self.low > 1 else "predicts too much" if self.high < 1 else "undecided"


def damage_of(point: Point) -> str:
    """What was measured: an increase of the loss, or an error of what a layer puts out."""
    if point.outcome != "measured":
        return point.outcome
    reported = point.theory.startswith(("lq bound on the removed weights", "lq bound on the output error"))
    return "output error" if reported or "output error" in (point.unit or "") else LOSS


def common(theory: str) -> str:
    """The name of a theory without the method that reports it."""
    return theory.partition(" (")[0] if theory.startswith("lq bound") else theory


def ranked(points: Iterable[Point]) -> Iterator[Ranked]:
    """Every theory and question for which three groups or more hold three things to order or more."""
    groups: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        groups[common(point.theory), damage_of(point)].append(point)
    for question, key in QUESTIONS.items():
        scope = "layer" if key == "over layers" else "network"
        for (theory, damage), every in sorted(groups.items()):
            own = [point for point in every if point.scope == scope]
            # A bound that a method reports in its own unit is no number to compare methods by.
            found: Correlation = within(own, _per_method(key))
            if found.value is not None and found.groups >= FEWEST:
                tasks = ", ".join(sorted({f"{point.dataset}/{point.model}" for point in own}))
                yield Ranked(question, theory, damage, tasks, found.value, found.low, found.high, found.groups)


def _per_method(key: str) -> Callable[[Point], Hashable]:
    group = WITHIN[key]
    return group if key == "over methods" else lambda point: (point.theory, group(point))


def calibrated(points: Iterable[Point]) -> Iterator[Calibrated]:
    """Every theory that predicts a loss increase of networks, at each network and budget."""
    groups: dict[tuple[str, str, str], list[Point]] = defaultdict(list)
    for point in points:
        if point.unit == "loss" and point.outcome == LOSS and point.scope == "network":
            groups[point.theory, f"{point.dataset}/{point.model}", point.budget].append(point)
    for (theory, task, budget), own in sorted(groups.items(), key=lambda item: (item[0][:2], amount(item[0][2]))):
        logs = [math.log(point.measured / point.predicted) for point in own if min(point.measured, point.predicted) > 0]
        found = spread(logs)
        low, high = None, None
        if found.mean is not None and found.half_width is not None and found.n >= FEWEST:
            low, high = (math.exp(found.mean + sign * found.half_width) for sign in (-1, 1))
        ratio = None if found.mean is None else math.exp(found.mean)
        yield Calibrated(theory, task, budget, ratio, low, high, found.n, len(own) - found.n)


def amount(budget: str) -> float:
    """How strong a budget is: the number in its words."""
    return float(budget.rpartition(" ")[2] or 0)
