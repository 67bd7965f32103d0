"""Time two implementations of the same task alternately, and check a claim about their ratio."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.measure.latency import bootstrap_median, half_width

Work = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Medians of a side-by-side timing.

    Attributes:
        ours: seconds.
        theirs: seconds; None if there is nothing to compare with.
        ratio: median over the pairs of ours / theirs.
        low, high: 95 % bootstrap interval of the ratio.
        pairs: how many pairs.
        megabytes: peak memory in a separate process, if that was measured.
    """

    ours: float
    theirs: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 1
    megabytes: float | None = None

    @property
    def spread(self) -> float | None:
        """Half the width of the ratio's interval, relative to the ratio."""
        if self.ratio is None or self.low is None or self.high is None:
            return None
        return half_width({"ratio": self.ratio, "ratio_low": self.low, "ratio_high": self.high})

    @classmethod
    def of(cls, ours: list[float], theirs: list[float]) -> Times:
        """Summarise the seconds of every run, pair by pair."""
        ratios = np.array(ours) / np.array(theirs)
        low, high = bootstrap_median(ratios)
        medians = float(np.median(ours)), float(np.median(theirs))
        return cls(*medians, float(np.median(ratios)), low, high, len(ratios))


def alternate(ours: Work, *theirs: Work, pairs: int = 5, warm_up: int = 1) -> list[Times]:
    """Run A B (C ...) A B (C ...) ...; return the times of A compared with each of the others, in order.

    Slow drifts of the machine affect neighbouring runs alike and leave their ratio unchanged.

    Args:
        ours: one run of A.
        theirs: one run of each implementation that A is compared with.
        pairs: rounds that count.
        warm_up: rounds before them.
    """
    seconds = [[clock(work) for work in (ours, *theirs)] for _ in range(warm_up + pairs)][warm_up:]
    columns = [list(column) for column in zip(*seconds, strict=True)]
    return [Times.of(columns[0], column) for column in columns[1:]]


def alone(ours: Work, runs: int = 3, warm_up: int = 1) -> Times:
    """The median time of several runs of one implementation."""
    seconds = [clock(ours) for _ in range(warm_up + runs)][warm_up:]
    return Times(float(np.median(seconds)), pairs=runs)


def clock(work: Work) -> float:
    """Wall-clock seconds of one run, with garbage collection off."""
    gc.disable()
    try:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    finally:
        gc.enable()


@dataclass(frozen=True)
class Promise:
    """The limits that a timing must keep: on the ratio ours / theirs, the seconds, the memory, and the precision.

    Attributes:
        ratio: ours / theirs is at most this.
        seconds: ours takes at most this.
        spread: half the width of the ratio's interval is at most this, relative to the ratio.
        megabytes: ours takes at most this much memory, in addition to the limit of seconds.
    """

    ratio: float | None = None
    seconds: float | None = None
    spread: float | None = None
    megabytes: float | None = None

    def holds(self, times: Times) -> bool:
        """Whether the medians meet the promise."""
        if self.ratio is not None:
            return times.ratio is not None and times.ratio <= self.ratio
        if self.spread is not None:
            return times.spread is not None and times.spread <= self.spread
        if self.megabytes is not None and not (times.megabytes is not None and times.megabytes <= self.megabytes):
            return False
        return self.seconds is None or times.ours <= self.seconds

    def __str__(self) -> str:
        if self.ratio is not None:
            return f"ratio ≤ {as_ratio(self.ratio)}"
        if self.spread is not None:
            return f"interval ≤ ±{self.spread:.0%}"
        return f"≤ {as_seconds(self.seconds)}" + (f", {self.megabytes:g} MB" if self.megabytes is not None else "")


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes:
        what: what ours does.
        times: how long it took.
        against: what it is compared with.
        promise: None where the sizes are too small for one to apply, or the row is for information only.
        agree: whether both gave the same result; None where nothing comparable ran.
        note: how it was measured, where that is not obvious.
    """

    what: str
    times: Times
    against: str = ""
    promise: Promise | None = None
    agree: bool | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the promise is kept; None without one."""
        return None if self.promise is None else self.promise.holds(self.times)

    def plain(self) -> dict[str, Any]:
        """The row as JSON values."""
        promise = None if self.promise is None else str(self.promise)
        return asdict(self) | {"promise": promise, "holds": self.holds}


def as_seconds(value: float | None) -> str:
    """A duration with three significant digits and a unit that suits it."""
    if value is None:
        return "–"
    if value >= 0.9995:
        return f"{value:.0f} s" if value >= 100 else f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def as_ratio(value: float | None) -> str:
    """A ratio ours / theirs as text; a small one as 1/x, where ours is x times as fast."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value > 0.2 else f"1/{1 / value:.4g}"
