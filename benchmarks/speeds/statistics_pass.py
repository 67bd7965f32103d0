"""The pass that collects the second moments of every prunable layer of a VGG-16, against its plain forward pass."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.measure.side_by_side import Finding, Promise, alternate
from benchmarks.speeds._settings import network
from methods.layers.statistics import Calibration, Moments, collect_moments
from methods.network.graph import NetworkGraph
from methods.network.reading import evaluating, listening
from methods.seeds import stream


def measure(quick: bool) -> Iterator[Finding]:
    """Time a pass over 5,000 images of CIFAR's size; fewer, and a smaller network, when quick."""
    name, samples = ("vgg11", 16) if quick else ("vgg16", 5000)
    model = network(name, "cifar10")
    inputs = torch.randn(samples, 3, 32, 32, generator=stream(0, "speed", "images"))
    labels = torch.zeros(samples, dtype=torch.int64)
    calibration = Calibration(inputs, labels, torch.arange(samples), batch_size=8 if quick else 256)
    groups = NetworkGraph(model, inputs[:1]).groups
    views = {f"{group.name}/{reader.name}": (reader.name, reader.rows) for group in groups for reader in group.readers}
    found: dict[str, dict[str, Moments]] = {}

    def ours() -> None:
        found["ours"] = collect_moments(model, views, calibration)

    def forward() -> None:
        with evaluating(model), torch.no_grad():
            for images, _ in calibration.batches():
                model(images)

    [times] = alternate(ours, forward, pairs=1 if quick else 2, warm_up=0)
    reader = groups[-1].readers[0]
    expected = _by_definition(model, reader.name, inputs[:16])
    few = Calibration(inputs[:16], labels[:16], torch.arange(16))
    actual = collect_moments(model, {"": (reader.name, reader.rows)}, few)[""].second
    yield Finding(
        f"{name}: moments of all {len(groups)} layers over {samples:,} images",
        times,
        "plain forward pass",
        None if quick else Promise(ratio=1.6),
        torch.allclose(actual, expected, rtol=1e-6, atol=1e-9),
        "same result: the last layer's moments against their definition",
    )


def _by_definition(model: torch.nn.Module, path: str, images: Tensor) -> Tensor:
    """(1/n) sum of phi phi^T over samples and positions, phi what the module at ``path`` reads."""
    reads: list[Tensor] = []
    with evaluating(model), torch.no_grad(), listening(model, {path: reads.append}):
        model(images)
    read = reads[0].double()
    phi = read.movedim(1, -1).reshape(-1, read.shape[1])
    return phi.T @ phi / len(phi)
