"""One k-DPP per unit over its incoming edges, for a whole layer: some units are timed, all of them extrapolated."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.measure.side_by_side import Finding, Promise, alone
from methods.dpp import DPPKernel, sample_edges
from methods.seeds import stream


def measure(quick: bool) -> Iterator[Finding]:
    """A 784 x 500 layer at a fifth of its edges; units cost the same, so a part of them tells the whole."""
    inputs, units, part = (64, 500, 4) if quick else (784, 500, 40)
    random = stream(0, "speed", "edges")
    samples = torch.randn(3000, inputs, generator=random).double().abs()
    samples[:, : inputs // 13] = 0  # as the border of MNIST's images
    second = samples.T @ samples / len(samples)
    weight = torch.randn(part, inputs, generator=random).double() * 0.05
    counts = torch.full((1, part), inputs // 5)

    def ours() -> None:
        sample_edges(weight, second, len(samples), counts, stream(1, "speed", "edges"), DPPKernel())

    times = alone(ours, runs=1 if quick else 3)
    yield Finding(
        f"DPP over edges, {inputs} x {units} layer, all units",
        replace(times, ours=times.ours * units / part),
        "",
        None if quick else Promise(seconds=240),
        None,
        f"extrapolated from {part} of {units} units",
    )
