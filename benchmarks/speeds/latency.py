"""How precise a latency ratio is: ResNet-20 at batch 32, on this machine as it is and with one core kept busy."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.measure.latency import fixed_threads, time_pairs
from benchmarks.measure.runtimes import RUNTIMES, Conditions
from benchmarks.measure.side_by_side import Finding, Promise, Times
from benchmarks.speeds._settings import network
from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.layers.statistics import Calibration
from methods.pruner import Pruner
from methods.seeds import stream

BATCH = 32


def measure(quick: bool) -> Iterator[Finding]:
    """Time a network at half its MACs against the dense one, as `measure=precise` does it."""
    dense = network("resnet20", "cifar10").eval()
    example = torch.randn(BATCH, 3, 32, 32, generator=stream(0, "speed", "latency"))
    calibration = Calibration(example, torch.zeros(BATCH, dtype=torch.int64), torch.arange(BATCH))
    pruned = Pruner(MagnitudeSelection()).prune(dense, calibration, Budget("speedup", 2.0)).model.eval()
    eager = RUNTIMES["eager"]()
    first, second = (eager.prepare(model, example, Conditions()) for model in (dense, pruned))
    pairs, seconds = (3, 0.1) if quick else (30, 30)
    what = f"latency of resnet20, pruned to half its MACs, batch {BATCH}"
    for others, promised in (("", 0.03), (", one core busy", 0.08)):
        with _busy(bool(others)), fixed_threads(1):
            row = time_pairs(first, second, pairs=pairs, target=0.03, max_seconds=seconds)
        # a record has dense / pruned, a finding ours / theirs: so the ends of the interval swap
        ratio, low, high = 1 / row["ratio"], 1 / row["ratio_high"], 1 / row["ratio_low"]
        times = Times(row["pruned_ms"] / 1e3, row["dense_ms"] / 1e3, ratio, low, high, row["pairs"])
        promise = None if quick else Promise(spread=promised)
        note = "" if times.spread is None else f"interval ±{times.spread:.1%} after {row['pairs']} pairs"
        yield Finding(what + others, times, "the dense network", promise, None, note)


@contextmanager
def _busy(wanted: bool) -> Iterator[None]:
    """Another process that computes all the time."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()
