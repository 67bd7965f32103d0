"""K-FAC factors of all layers of a ResNet-20, compared with one forward and backward pass over the same samples."""

from collections.abc import Iterator

import torch
from torch.nn import functional

from benchmarks.measure.side_by_side import Finding, Promise, alternate
from benchmarks.speeds._settings import network
from methods.curvature.kfac import Factors, factorable, kfac_factors
from methods.network.reading import evaluating
from methods.seeds import stream


def measure(quick: bool) -> Iterator[Finding]:
    """Time factors of 1,000 samples with labels drawn from the network's predictions."""
    samples = 8 if quick else 1000
    model = network("resnet20", "cifar10")
    random = stream(0, "speed", "k-fac")
    inputs = torch.randn(samples, 3, 32, 32, generator=random)
    labels = torch.randint(10, (samples,), generator=random)
    layers = factorable(model)
    found: dict[str, Factors] = {}

    def ours() -> None:
        found.update(kfac_factors(model, layers, inputs, labels, generator=stream(1, "speed", "k-fac")))

    def forward_backward() -> None:
        with evaluating(model):
            for x, y in zip(inputs.split(256), labels.split(256), strict=True):
                torch.autograd.grad(functional.cross_entropy(model(x), y), list(model.parameters()))

    [times] = alternate(ours, forward_backward, pairs=1 if quick else 3)
    yield Finding(
        f"ResNet-20: K-FAC factors of {len(layers)} layers, {samples:,} samples",
        times,
        "forward and backward pass",
        None if quick else Promise(ratio=3),
        None,
    )
