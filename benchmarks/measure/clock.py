"""Time a call on the CPU, or on a GPU that runs asynchronously."""

import time
from collections.abc import Callable

import torch

Clock = Callable[[Callable[[], object], int], float]


def clock_of(device: str) -> Clock:
    """The clock for calls that compute on ``device``."""
    return gpu_seconds if device == "cuda" else seconds


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Mean wall-clock seconds of one call."""
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - started) / repeats


def gpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """Mean seconds of one call, between two CUDA events in the GPU's own queue."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats
