"""Latency of a pruned network beside its dense original, in a way that can be believed.

Both are timed in one process, in turn A B A B ..., after warm-up, in inference mode with a fixed number of threads. The
figure is the median of the per-pair ratios dense / pruned, with a bootstrap interval: slow drifts of the machine hit both
halves of a pair alike and cancel.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.errors import BadInput

Run = Callable[[], object]
WARM_UP_SECONDS = 0.15
SAMPLE_SECONDS = 0.01  # one timing is at least this long, so that the clock's resolution does not show
RESAMPLES = 1000


def measure_latency(
    dense: nn.Module, pruned: nn.Module, example: Tensor, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row per runtime and batch size.

    Args:
        dense: the original network.
        pruned: the pruned one; masked networks are timed as they are.
        example: inputs to repeat up to the batch size.
        settings: ``runtimes``, ``batches``, ``pairs``, ``threads``.

    Returns:
        Rows with ``runtime``, ``batch``, ``dense_ms``, ``pruned_ms`` (medians), their interquartile ranges, ``ratio``
        (median of dense / pruned per pair), its 95 % bootstrap interval, ``pairs`` and ``threads``.
    """
    rows = []
    for name in settings["runtimes"]:
        prepare = RUNTIMES.get(name)
        if prepare is None:
            raise BadInput(f"measure.latency.runtimes names '{name}'; choose from {', '.join(RUNTIMES)}")
        for batch in settings["batches"]:
            inputs = example[torch.arange(batch) % len(example)]
            with _threads(settings["threads"]):
                run_dense, run_pruned = prepare(dense, inputs), prepare(pruned, inputs)
                timed = time_pairs(run_dense, run_pruned, settings["pairs"])
            rows.append({"runtime": name, "batch": batch, "threads": settings["threads"], **timed})
    return rows


def time_pairs(first: Run, second: Run, pairs: int) -> dict[str, Any]:
    """Time two callables in turn; figures as :func:`measure_latency` describes them, ``dense`` being the first."""
    repeats = max(_warm_up(first), _warm_up(second))
    times = np.array([[_seconds(run, repeats) for run in (first, second)] for _ in range(pairs)])
    ratios = times[:, 0] / times[:, 1]
    low, high = bootstrap_median(ratios)
    quartiles = np.percentile(times * 1e3, [25, 50, 75], axis=0)
    return {
        "dense_ms": float(quartiles[1, 0]),
        "pruned_ms": float(quartiles[1, 1]),
        "dense_iqr_ms": float(quartiles[2, 0] - quartiles[0, 0]),
        "pruned_iqr_ms": float(quartiles[2, 1] - quartiles[0, 1]),
        "ratio": float(np.median(ratios)),
        "ratio_low": low,
        "ratio_high": high,
        "pairs": pairs,
    }


def bootstrap_median(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the median; the resampling is seeded, so the same values give the same interval."""
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    medians = np.median(values[draws], axis=1)
    low, high = np.percentile(medians, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _warm_up(run: Run) -> int:
    """Run until warm; returns how many runs make one timing."""
    started, runs = time.perf_counter(), 0
    while time.perf_counter() - started < WARM_UP_SECONDS or runs < 3:
        run()
        runs += 1
    each = (time.perf_counter() - started) / runs
    return max(1, round(SAMPLE_SECONDS / each))


def _seconds(run: Run, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - started) / repeats


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _eager(model: nn.Module, inputs: Tensor) -> Run:
    model = copy.deepcopy(model).eval()

    def run() -> Tensor:
        with torch.inference_mode():
            return model(inputs)

    return run


RUNTIMES: dict[str, Callable[[nn.Module, Tensor], Run]] = {"eager": _eager}
