"""One k-DPP per unit over its incoming edges, for a whole layer."""

from collections.abc import Iterator

import torch

from benchmarks.measure.side_by_side import Finding, Promise, alone
from methods.dpp.selection import DPPKernel, sample_edges
from methods.seeds import stream


def measure(quick: bool) -> Iterator[Finding]:
    """Time a 784 x 500 layer at a fifth of its edges, once, since it takes a minute."""
    inputs, units = (64, 20) if quick else (784, 500)
    random = stream(0, "speed", "edges")
    samples = torch.randn(3000, inputs, generator=random).double().abs()
    samples[:, : inputs // 13] = 0  # as the border of MNIST's images
    second = samples.T @ samples / len(samples)
    weight = torch.randn(units, inputs, generator=random).double() * 0.05
    counts = torch.full((1, units), inputs // 5)

    def ours() -> None:
        sample_edges(weight, second, len(samples), counts, stream(1, "speed", "edges"), DPPKernel())

    times = alone(ours, runs=1, warm_up=0)
    promise = None if quick else Promise(seconds=240)
    yield Finding(f"DPP over edges, {inputs} x {units} layer, all units", times, "", promise)
