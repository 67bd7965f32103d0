"""Plain statistics: spreads, Student's paired t, Holm's correction.

The verdicts of boards are in :mod:`benchmarks.boards.verdicts`, those over networks in :mod:`benchmarks.boards.blocks`.

A difference that cannot be tested (one pair) has no p. Equal differences in all pairs have no spread to divide by; with
accuracies that are multiples of 1/n that happens by chance, so the sign test is used: p = 2^(1 - n).
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALPHA = 0.05


@dataclass(frozen=True)
class Spread:
    """How many values there are, their mean, and their sample standard deviation (divisor n - 1; None for n = 1)."""

    n: int
    mean: float | None
    std: float | None

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % confidence interval of the mean (Student's t)."""
        if self.std is None:
            return None
        from scipy.special import stdtrit

        return float(stdtrit(self.n - 1, 1 - ALPHA / 2)) * self.std / math.sqrt(self.n)


def spread(values: Iterable[float | None]) -> Spread:
    """Summarise ``values``; None stands for a value that was not measured and is left out of ``n``."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return Spread(0, None, None)
    mean = statistics.fmean(known)
    if len(known) == 1:
        return Spread(1, mean, None)
    squares = math.fsum((value - mean) ** 2 for value in known)  # statistics.stdev is exact and 20 times as slow
    return Spread(len(known), mean, math.sqrt(squares / (len(known) - 1)))


@dataclass(frozen=True)
class Comparison:
    """A paired comparison: mean and sample deviation of ``first - second`` over ``n`` pairs, and a two-sided p."""

    n: int
    difference: float | None
    std: float | None
    p: float | None
    test: str


def paired_t(differences: Sequence[float]) -> Comparison:
    """Student's paired t test of ``differences``."""
    summary = spread(differences)
    if summary.std is None or summary.mean is None:
        return Comparison(summary.n, summary.mean, summary.std, None, "none")
    scale = max(abs(value) for value in differences)
    if summary.std <= 1e-12 * scale or scale == 0.0:
        return Comparison(summary.n, summary.mean, summary.std, 1.0 if scale == 0 else 2.0 ** (1 - summary.n), "sign")
    from scipy.special import stdtr

    t = summary.mean / (summary.std / math.sqrt(summary.n))
    return Comparison(summary.n, summary.mean, summary.std, float(2 * stdtr(summary.n - 1, -abs(t))), "t")


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values, in the order given; None (not testable) counts as no comparison."""
    known = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for step, (p, position) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - step) * p))
        adjusted[position] = largest
    return adjusted
