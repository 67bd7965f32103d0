"""Summaries of repeated measurements."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """How many values there are, their mean, and their sample standard deviation (divisor n - 1; None for n = 1)."""

    n: int
    mean: float | None
    std: float | None


def spread(values: Iterable[float | None]) -> Spread:
    """Summarise ``values``; None stands for a value that was not measured and is left out of ``n``."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return Spread(0, None, None)
    return Spread(len(known), statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)
