"""Measure sensitivity curves: the network's loss when one layer alone is pruned, at a grid of sizes.

Li, Kadav, Durdanovic, Samet and Graf, "Pruning filters for efficient ConvNets" (ICLR 2017, section 3.2), prune each
layer alone and measure the accuracy. Here units are those of any selection, with the method's own repair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from methods.compensation import Compensation
from methods.layers.seen import EdgeLayer, Layer
from methods.layers.statistics import Calibration
from methods.progress import track
from methods.selection import Seen, Selection
from methods.sensitivity.alone import chosen, kept_alone, loss_and_accuracy

SPARSEST = 0.01  # of a layer's single weights, at the end of the grid
ONE_WEIGHT = 1  # the fewest units of a layer


@dataclass(frozen=True)
class Curve:
    """One layer alone at several sizes, ascending; the last one is the whole network.

    Attributes:
        name: of the layer.
        unit: ``node`` or ``edge``.
        sizes: units that stay.
        losses: mean loss per sample.
        accuracies: fractions in [0, 1]; None for regression.
    """

    name: str
    unit: str
    sizes: tuple[int, ...]
    losses: tuple[float, ...]
    accuracies: tuple[float | None, ...]


def grid(layer: Layer, count: int) -> list[int]:
    """At most ``count`` sizes below the whole, ascending: even steps for nodes, even ratios for single weights."""
    if isinstance(layer, EdgeLayer):
        whole = int(layer.live.sum())
        shares = [SPARSEST ** (step / count) for step in range(1, count + 1)]
    else:
        whole = layer.size
        shares = [step / (count + 1) for step in range(1, count + 1)]
    return sorted({max(ONE_WEIGHT, round(share * whole)) for share in shares} - {whole})


def measured(
    layers: Sequence[Seen],
    selection: Selection[Seen],
    compensation: Compensation,
    samples: Calibration,
    count: int = 8,
) -> list[Curve]:
    """Measure a curve for every layer.

    Args:
        layers: of one network; it is changed and put back.
        selection: which units stay.
        compensation: how they make up for the removed units.
        samples: on which loss and accuracy are measured, without any training.
        count: sizes below the whole layer.
    """
    if not layers:
        return []
    start = loss_and_accuracy(layers[0].model, samples)
    todo = [(layer, size) for layer in layers for size in grid(layer, count)]
    found: dict[str, list[tuple[int, float, float | None]]] = {layer.name: [] for layer in layers}
    for layer, size in track(todo, "each layer alone, sizes", len(todo)):
        kept = chosen(selection, layer, size)
        with kept_alone(layer, kept, compensation, selection) as model:
            found[layer.name].append((size, *loss_and_accuracy(model, samples)))
    curves = []
    for layer in layers:
        whole = int(layer.live.sum()) if isinstance(layer, EdgeLayer) else layer.size
        sizes, losses, accuracies = zip(*found[layer.name], (whole, *start), strict=True)
        curves.append(Curve(layer.name, layer.unit, sizes, losses, accuracies))
    return curves


def hull(sizes: Sequence[int], damages: Sequence[float]) -> Tensor:
    """(largest size + 1,) the largest convex function of 0, 1, ... units below the given points.

    Between the points it is linear; below the smallest size it has the slope of its first segment. A multiplier can
    only lead to sizes on this hull (Everett, Operations Research 1963).

    Args:
        sizes: ascending, from 1.
        damages: what the network loses at each.
    """
    if len(sizes) == 1:
        return torch.full((sizes[0] + 1,), float(damages[0]), dtype=torch.float64)
    corners: list[tuple[int, float]] = []
    for point in zip(sizes, damages, strict=True):
        while len(corners) > 1 and _turns_down(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    values = torch.empty(sizes[-1] + 1, dtype=torch.float64)
    for (left, low), (right, high) in pairwise(corners):
        steps = torch.arange(left, right + 1, dtype=torch.float64)
        values[left : right + 1] = low + (high - low) * (steps - left) / (right - left)
    (left, low), (right, high) = corners[:2]
    below = torch.arange(left, dtype=torch.float64)
    values[:left] = low + (high - low) * (below - left) / (right - left)
    return values


def _turns_down(first: tuple[int, float], second: tuple[int, float], third: tuple[int, float]) -> bool:
    """Whether the second point lies on or above the line from the first to the third."""
    return (second[1] - first[1]) * (third[0] - first[0]) >= (third[1] - first[1]) * (second[0] - first[0])
