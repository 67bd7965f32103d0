"""Plain statistics: spreads, paired tests, Holm's correction, Friedman and Nemenyi; verdicts are next door.

Which test answers which question (Demšar, JMLR 7, 2006, for everything over several tasks):

* two methods on one task, paired over seeds: Student's t of the differences;
* two methods over tasks: Wilcoxon's signed ranks of the differences, one per task;
* k methods over N tasks: Friedman's chi-square of the mean ranks, then Nemenyi's critical difference
  ``CD = q(alpha; k, inf) / sqrt(2) * sqrt(k (k + 1) / (6 N))`` with q the studentised range.

A difference that cannot be tested (one pair) is not significant. Equal differences in all pairs have no spread to
divide by; with accuracies that are multiples of 1/n that happens by chance, so the sign test is used: p = 2^(1 - n).
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
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


def signed_rank(differences: Sequence[float]) -> Comparison:
    """Wilcoxon's signed-rank test of ``differences``, exact where SciPy can (no ties and no zeros)."""
    summary = spread(differences)
    if summary.n < 2 or not any(differences):
        return Comparison(summary.n, summary.mean, summary.std, 1.0 if summary.n > 1 else None, "Wilcoxon")
    from scipy.stats import wilcoxon

    return Comparison(summary.n, summary.mean, summary.std, float(wilcoxon(differences).pvalue), "Wilcoxon")


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values, in the order given; None (not testable) counts as no comparison."""
    known = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for step, (p, position) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - step) * p))
        adjusted[position] = largest
    return adjusted


@dataclass(frozen=True)
class Friedman:
    """k methods over N tasks: mean ranks (1 is best), the test of equal ranks, and Nemenyi's critical difference."""

    tasks: int
    mean_ranks: dict[str, float]
    statistic: float
    p: float
    critical_difference: float
    nemenyi: dict[tuple[str, str], float]  # p of each pair, in the order of the mean ranks

    @property
    def groups(self) -> list[list[str]]:
        """Maximal runs of methods, best first, whose mean ranks differ by less than the critical difference."""
        names = list(self.mean_ranks)
        runs: list[list[str]] = []
        for start, first in enumerate(names):
            run = [n for n in names[start:] if self.mean_ranks[n] - self.mean_ranks[first] < self.critical_difference]
            if len(run) > 1 and not (runs and set(run) <= set(runs[-1])):
                runs.append(run)
        return runs


def friedman(scores: Mapping[str, Sequence[float]], larger_is_better: bool = True) -> Friedman | None:
    """Friedman's test (corrected for ties) and Nemenyi's comparisons; None with under 3 methods or 2 tasks.

    Args:
        scores: for each method its score on every task, in one order of tasks.
        larger_is_better: whether a larger score wins.
    """
    names = sorted(scores)
    tasks = len(scores[names[0]]) if names else 0
    if len(names) < 3 or tasks < 2:
        return None
    import numpy as np
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    table = np.array([scores[name] for name in names], dtype=float).T
    ranked = rankdata(-table if larger_is_better else table, axis=1)
    mean = dict(sorted(zip(names, ranked.mean(axis=0).tolist(), strict=True), key=lambda item: (item[1], item[0])))
    if (ranked == ranked[:, :1]).all():
        statistic, p = 0.0, 1.0
    else:
        outcome = friedmanchisquare(*table.T)
        statistic, p = float(outcome.statistic), float(outcome.pvalue)
    error = math.sqrt(len(names) * (len(names) + 1) / (6 * tasks))
    critical = float(studentized_range.ppf(1 - ALPHA, len(names), np.inf)) / math.sqrt(2) * error
    order = list(mean)
    pairs = [(a, b) for position, a in enumerate(order) for b in order[position + 1 :]]
    gaps = np.array([mean[b] - mean[a] for a, b in pairs]) / error * math.sqrt(2)
    tails = studentized_range.sf(gaps, len(names), np.inf)
    return Friedman(tasks, mean, statistic, p, critical, dict(zip(pairs, np.clip(tails, 0, 1).tolist(), strict=True)))
