"""PQ index, counts and masks of SAP for as many weights as a ResNet-18 has, beside one neuron after the other.

The promised seconds are those of the paper's own code on two cores.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.measure.side_by_side import Finding, Promise, alone
from methods.lq.sap import as_units, sap_masks
from methods.network.sparsity import pq_index
from methods.seeds import stream

SEEN = {"neuron": 0.45, "layer": 1.2, "global": 1.4}


def measure(quick: bool) -> Iterator[Finding]:
    """Time masks by the PQ index in each of the three scopes."""
    shapes = [(12, 5), (7, 12)] if quick else resnet18()
    random = stream(0, "speed", "pq")
    weights = {f"{i}": torch.randn(*shape, generator=random) for i, shape in enumerate(shapes)}
    total = sum(weight.numel() for weight in weights.values())
    for scope, seconds in SEEN.items():
        found: dict[str, Tensor] = {}

        def ours(scope: str = scope, found: dict[str, Tensor] = found) -> None:
            for rows in as_units(weights, scope).values():
                pq_index(rows)
            found.update(sap_masks(weights, scope=scope))

        times = alone(ours, runs=2 if quick else 7)
        yield Finding(
            f"PQ index, counts and masks of {total:,} weights, {scope} scope",
            times,
            "the paper's own code as seen on two cores",
            None if quick else Promise(seconds=seconds),
            _by_definition(weights, scope, found) if quick else None,
        )


def resnet18() -> list[tuple[int, ...]]:
    """Shapes of the weights of ResNet-18 for 32 x 32 images with ten classes."""
    shapes: list[tuple[int, ...]] = [(64, 3, 3, 3)]
    inputs = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            shapes += [(width, inputs, 3, 3), (width, width, 3, 3)]
            if block == 0 and inputs != width:
                shapes.append((width, inputs, 1, 1))
            inputs = width
    return [*shapes, (10, 512)]


def _by_definition(weights: dict[str, Tensor], scope: str, found: dict[str, Tensor]) -> bool:
    """Whether each unit lost floor(d - ceil(d (1 - I)^1)) of its smallest weights; p = 0.5, q = 1, the defaults."""
    masks = as_units(found, scope)
    for name, rows in as_units(weights, scope).items():
        for row, mask in zip(rows.double().abs(), masks[name], strict=True):
            size = len(row)
            index = 1 - (row.sqrt().mean() ** 2) / row.mean()
            lost = int(min(float(size - torch.ceil(size * (1 - index))), 0.9 * size))
            if int((~mask).sum()) != lost or (lost and float(row[~mask].max()) > float(row[mask].min())):
                return False
    return True
