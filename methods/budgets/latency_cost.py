"""Measure what a latency budget is about: how long the network takes once its layers have the proposed sizes.

A network of these sizes is built and timed in turn with the dense network. The result is the median ratio of the pairs,
so that a slow machine slows both alike. The timings are short, since a search needs a dozen of them: they suffice to
find the widths. The latency that is reported is measured again at the end of the benchmark.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn

from methods.budgets.budget import Cost, Counts, NodeCost
from methods.network.graph import NetworkGraph
from methods.network.reading import evaluating

PAIRS = 9
SAMPLE_SECONDS = 0.01  # one timing is at least this long
THREADS = 1

Clock = Callable[[nn.Module, Tensor, int], float]


class LatencyCost:
    """Cost of a network whose groups keep given numbers of nodes, with its latency relative to the dense network.

    Args:
        graph: of the network as it is now; candidates are copies with the first nodes of each group.
        count: its counted cost.
        dense: the dense network.
        inputs: one batch.
        clock: returns the seconds that a given number of forward passes takes.
    """

    def __init__(
        self, graph: NetworkGraph, count: NodeCost, dense: nn.Module, inputs: Tensor, clock: Clock | None = None
    ) -> None:
        self.graph, self.count, self.dense, self.inputs = graph, count, dense, inputs
        self.clock = clock or forward_seconds
        self.sizes = count.sizes
        self._known: dict[tuple[int, ...], float] = {}

    def __call__(self, counts: Counts) -> Cost:
        """Cost of the candidate; the same counts are timed once."""
        key = tuple(int(counts[name]) for name in self.sizes)
        if key not in self._known:
            self._known[key] = relative_time(self.built(counts), self.dense, self.inputs, self.clock)
        return replace(self.count(counts), latency=self._known[key])

    def built(self, counts: Counts) -> nn.Module:
        """A network of these sizes. Which nodes stay does not matter for its speed."""
        graph = NetworkGraph.of(copy.deepcopy(self.graph.model), self.graph.groups)
        for name in self.sizes:
            graph.remove(graph.find(name), torch.arange(int(counts[name])))
        return graph.model


def relative_time(candidate: nn.Module, dense: nn.Module, inputs: Tensor, clock: Clock) -> float:
    """Median of candidate / dense over pairs of timings, in turn, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with evaluating(candidate), evaluating(dense), torch.inference_mode():
            clock(candidate, inputs, 2)
            once = clock(dense, inputs, 2) / 2
            repeats = max(1, round(SAMPLE_SECONDS / max(once, 1e-9)))
            return median(clock(candidate, inputs, repeats) / clock(dense, inputs, repeats) for _ in range(PAIRS))
    finally:
        torch.set_num_threads(threads)


def forward_seconds(model: nn.Module, inputs: Tensor, repeats: int) -> float:
    """Seconds that ``repeats`` forward passes take: processor time of this thread on a CPU, elapsed time on a GPU."""
    if not inputs.is_cuda:
        started = time.thread_time()
        for _ in range(repeats):
            model(inputs)
        return max(time.thread_time() - started, 1e-9)
    torch.cuda.synchronize(inputs.device)
    started = time.perf_counter()
    for _ in range(repeats):
        model(inputs)
    torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - started
