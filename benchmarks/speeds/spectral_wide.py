"""Spectral selection in a wide layer, compared with forming the covariance that it starts from.

The covariance is summed in chunks, the same chunk of samples again and again: its time does not depend on the numbers.
"""

from collections.abc import Iterator

import torch

from benchmarks.measure.side_by_side import Finding, Promise, Times, alternate
from methods.seeds import stream
from methods.spectral.greedy import greedy_selection
from methods.spectral.selection import leverage_scores, output_metric

LAM = 1e-6
CHUNKS = 10


def measure(quick: bool) -> Iterator[Finding]:
    """Time the search alone, and with the leverage scores that its ridge needs."""
    m, k, samples = (256, 64, 4000) if quick else (4096, 1024, 60_000)
    random = stream(0, "speed", "wide")
    mixing = torch.randn(m, m, generator=random, dtype=torch.float64) / m**0.5
    chunk = (torch.randn(samples // CHUNKS, m, generator=random, dtype=torch.float64) @ mixing).clamp_(min=0)
    covariance = chunk.T @ chunk / len(chunk)
    lam = LAM * covariance.trace().item()
    ridge = k * lam * leverage_scores(covariance, lam)
    metric = output_metric([torch.randn(m // 4, m, 1, generator=random, dtype=torch.float64)], theta=0.5)

    def search() -> None:
        greedy_selection(covariance, k, ridge, metric)

    def with_ridge() -> None:
        greedy_selection(covariance, k, k * lam * leverage_scores(covariance, lam), metric)

    def form() -> None:
        total = torch.zeros_like(covariance)
        for _ in range(CHUNKS):
            total.addmm_(chunk.T, chunk)

    # A is the covariance here, so that one forming serves both rows
    pairs = alternate(form, search, with_ridge, pairs=1 if quick else 2, warm_up=0)
    promise = None if quick else Promise(ratio=0.5)
    for what, times in zip(("search", "search and leverage scores"), pairs, strict=True):
        yield Finding(
            f"spectral {what}, m = {m}, k = {k}, theta = 0.5",
            swapped(times),
            f"forming the {m} x {m} float64 covariance of {samples:,} samples",
            promise,
        )


def swapped(times: Times) -> Times:
    """The same timing with ours and theirs exchanged."""
    assert times.theirs and times.ratio and times.low and times.high
    return Times(times.theirs, times.ours, 1 / times.ratio, 1 / times.high, 1 / times.low, times.pairs)
