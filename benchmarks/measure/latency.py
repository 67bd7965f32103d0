"""Measure the latency of a pruned network against its dense original, reliably.

Both are timed in one process, in turn A B A B ..., after warm-up, without gradients, with a fixed number of threads.
The figure is the median of the per-pair ratios dense / pruned, with a bootstrap interval: slow drifts of the machine
affect both halves of a pair alike and cancel. Pairs are added until the interval is as narrow as requested, or until
time is up, which the row then notes. Only one process per machine measures at a time.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure.clock import clock_of
from benchmarks.measure.lock import one_at_a_time
from benchmarks.measure.runtimes import RUNTIMES, Conditions, Run, Runtime
from benchmarks.measure.runtimes.runtime import as_tensor, placed
from benchmarks.settings.base import checked
from benchmarks.settings.sections import Latency
from methods.errors import BadInput, first_line

Clock = Callable[[Run, int], float]  # mean seconds of one run, over the given number of runs
TARGET = 0.03
MAX_SECONDS = 0.5
SAMPLE_SECONDS = 0.005  # one timing is at least this long, so that the clock's resolution does not matter
WARM_UP_SECONDS, STEADY = 0.2, 0.05  # the longest warm-up; relative spread of three blocks that counts as warm
RESAMPLES = 1000
LOOK_AGAIN = 1.25  # factor by which the number of pairs grows before the interval is computed again
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}  # of outputs, relative to the largest output


@dataclass(frozen=True)
class Settings:
    """The configuration's section ``measure.latency``; null stands for the value given here.

    Attributes:
        runtimes: names of the runtimes to time.
        batches: batch sizes.
        pairs: minimum number of dense-pruned pairs per figure.
        threads: threads of one operation.
        target: half the width of the ratio's interval, relative to the ratio, at which no more pairs are added.
        max_seconds: time per figure after which no pairs beyond the first ``pairs`` are added.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        channels_last: memory layout of images.
        device: ``cpu`` or ``cuda``; null takes the GPU where there is one and the runtime can use it.
    """

    runtimes: tuple[str, ...] = ("eager",)
    batches: tuple[int, ...] = (1, 256)
    pairs: int = 20
    threads: int = 1
    target: float = TARGET
    max_seconds: float = MAX_SECONDS
    precision: str = "float32"
    channels_last: bool = False
    device: str | None = None

    @classmethod
    def parse(cls, section: Mapping[str, Any]) -> Settings:
        """The settings in ``section``.

        Raises:
            BadInput: an option is unknown or out of its range, or a runtime is not installed.
        """
        given = checked(Latency, dict(section), "measure.latency").model_dump(exclude_none=True)
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
        settings = cls(**values)
        for name in settings.runtimes:
            settings._check_runtime(name)
        return settings

    def _check_runtime(self, name: str) -> None:
        runtime = RUNTIMES.get(name)
        if runtime is None:
            raise BadInput(f"measure.latency.runtimes names '{name}'; choose from {', '.join(RUNTIMES)}")
        if missing := runtime.missing():
            raise BadInput(f"the runtime {name} needs {', '.join(missing)}, not installed here; type {runtime.install}")
        if self.precision not in runtime.precisions:
            raise BadInput(
                f"measure.latency.precision={self.precision}: {name} runs in {', '.join(runtime.precisions)}"
            )
        if self.channels_last and not runtime.layouts:
            raise BadInput(f"measure.latency.channels_last=true: {name} chooses its own layout; leave it null")
        if self.device is not None and self.device not in runtime.devices:
            raise BadInput(f"measure.latency.device={self.device}: {name} runs on {', '.join(runtime.devices)}")
        if not torch.cuda.is_available():
            if "cpu" not in runtime.devices:
                raise BadInput(f"the runtime {name} needs a GPU that PyTorch can use; leave it out of the runtimes")
            if self.device == "cuda":
                raise BadInput(
                    "measure.latency.device=cuda: no GPU that PyTorch can use; type measure.latency.device=cpu"
                )

    def conditions(self, runtime: Runtime) -> Conditions:
        """The conditions under which ``runtime`` is timed here."""
        gpu = "cuda" in runtime.devices and torch.cuda.is_available()
        device = self.device or ("cuda" if gpu else "cpu")
        return Conditions(self.threads, self.precision, self.channels_last, device)


def measure_latency(
    dense: nn.Module, pruned: nn.Module, example: Tensor, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Measure the latency of both networks, with one row per runtime and batch size.

    Args:
        dense: the original network.
        pruned: the pruned network; masked networks are timed with their zeros.
        example: inputs to repeat up to the batch size.
        settings: the options of :class:`Settings`.

    Returns:
        Rows with ``runtime``, ``batch``, the conditions, ``dense_ms``, ``pruned_ms`` (medians), their interquartile
        ranges, ``ratio`` (median of dense / pruned per pair), its 95 % bootstrap interval, ``pairs``, ``difference``
        (of the runtime's outputs from eager float32, relative to the largest) and ``note``: what a reader has to know.
        A runtime that cannot execute one of the networks, or gives different outputs, has a note instead of times.
    """
    chosen = Settings.parse(settings)
    rows = []
    for name in chosen.runtimes:
        runtime = RUNTIMES[name]()
        for batch in chosen.batches:
            inputs = example[torch.arange(batch) % len(example)]
            rows.append(_row(runtime, dense, pruned, inputs, chosen))
    return rows


def _row(runtime: Runtime, dense: nn.Module, pruned: nn.Module, inputs: Tensor, settings: Settings) -> dict[str, Any]:
    conditions = settings.conditions(runtime)
    row: dict[str, Any] = {"runtime": runtime.name, "batch": len(inputs), **vars(conditions)}
    row["version"] = runtime.version()
    with fixed_threads(settings.threads):
        try:
            runtime.fresh()
            first, second = (runtime.prepare(model, inputs, conditions) for model in (dense, pruned))
            row["difference"] = max(difference(first, dense, inputs), difference(second, pruned, inputs))
        except Exception as error:  # whatever a compiler or exporter raises; the cell's other results are worth keeping
            return row | {"note": f"cannot run here: {type(error).__name__}: {first_line(error)}"}
        if not row["difference"] <= TOLERANCES[settings.precision]:
            return row | {"note": f"not timed: outputs differ from eager ones by {row['difference']:.2g} (relative)"}
        with one_at_a_time() as alone:
            clock = clock_of(conditions.device)
            timed = time_pairs(first, second, settings.pairs, settings.target, settings.max_seconds, clock)
        row |= timed | runtime.figures(dense, pruned, inputs, conditions)
    notes = [timed["note"]] if timed["note"] else []
    if not alone:
        notes.append("timed while another measurement ran")
    if not runtime.uses_zeros and _masked(dense, pruned):
        notes.append("masked: zeros are computed like other weights")
    return row | {"note": "; ".join(notes) or None, "load": _load()}


def difference(run: Run, model: nn.Module, inputs: Tensor) -> float:
    """Largest difference of the outputs of ``run`` from those of eager float32, relative to the largest output."""
    with torch.inference_mode():
        network, inputs = placed(model, inputs, Conditions())
        expected = network(inputs)
    found = as_tensor(run())
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


def time_pairs(
    first: Run,
    second: Run,
    pairs: int,
    target: float = TARGET,
    max_seconds: float = MAX_SECONDS,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Time two callables in turn; figures as :func:`measure_latency` describes them, ``dense`` being the first.

    Args:
        first: the dense network.
        second: the pruned one.
        pairs: minimum number of pairs.
        target: more pairs are added while half the width of the interval, relative to the ratio, exceeds this.
        max_seconds: no more pairs are added after this time.
        clock: gives the mean seconds of one run over a number of runs.
    """
    clock = clock or clock_of("cpu")
    with _no_garbage_collection():
        repeats = max(_warm_up(first, clock), _warm_up(second, clock))
        times: list[tuple[float, float]] = []
        spent, look = 0.0, pairs
        while True:
            times.append((clock(first, repeats), clock(second, repeats)))
            spent += sum(times[-1]) * repeats
            # The interval is checked only now and then: it takes time to compute, and stopping at the first lucky
            # check would make it too narrow.
            if len(times) < pairs or (len(times) < look and spent < max_seconds):
                continue
            look = math.ceil(len(times) * LOOK_AGAIN)
            figures = _figures(np.array(times))
            width = half_width(figures)
            if width <= target or spent >= max_seconds:
                break
    reached = width <= target
    note = None if reached else f"the ratio's interval is ±{width:.1%}, not the ±{target:.1%} asked for"
    return {**figures, "pairs": len(times), "note": note}


def half_width(figures: Mapping[str, float]) -> float:
    """Half the width of the ratio's interval, relative to the ratio."""
    return (figures["ratio_high"] - figures["ratio_low"]) / 2 / figures["ratio"]


def _figures(times: np.ndarray) -> dict[str, float]:
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
    }


def bootstrap_median(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of the median; seeded, so that the same values give the same interval."""
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    medians = np.median(values[draws], axis=1)
    low, high = np.percentile(medians, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _warm_up(run: Run, clock: Clock) -> int:
    """Run until three blocks in a row take the same time; returns how many runs make one timing."""
    repeats = max(1, round(SAMPLE_SECONDS / max(clock(run, 1), clock(run, 1), 1e-9)))
    blocks: list[float] = []
    while len(blocks) < 3 or max(blocks[-3:]) > (1 + STEADY) * min(blocks[-3:]):
        blocks.append(clock(run, repeats))
        if sum(blocks) * repeats > WARM_UP_SECONDS:
            break
    return max(1, round(SAMPLE_SECONDS / max(min(blocks), 1e-9)))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def fixed_threads(number: int) -> Iterator[None]:
    """Set the number of threads of one operation, and restore the previous number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _masked(dense: nn.Module, pruned: nn.Module) -> bool:
    """Whether ``pruned`` has parameters of the same shapes as ``dense``, and more zeros in them."""
    before, after = list(dense.parameters()), list(pruned.parameters())
    if [p.shape for p in before] != [p.shape for p in after]:
        return False
    return sum(int(torch.count_nonzero(p)) for p in after) < sum(int(torch.count_nonzero(p)) for p in before)


def _load() -> float | None:
    """The load average of the last minute; above the number of cores, the machine was overloaded."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
