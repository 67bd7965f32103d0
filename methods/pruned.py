"""The result of pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from methods.network.graph import NodeGroup
from methods.network.kinds.registry import find_kind

LITTLE = 0.01  # of a layer's units; a layer that keeps less hardly passes anything on
GROWTH = 10  # of the largest weight; a repair that needs more has fitted noise


@dataclass
class Pruned:
    """A pruned network and how it was made.

    Attributes:
        model: physically smaller for nodes, same shapes with zeros for edges.
        unit: ``node`` or ``edge``.
        kept: for nodes, per group the nodes that stayed in the last step.
        masks: for edges, parameter name -> boolean mask that training has to respect.
        layers: per layer its name, units before, units kept, and what the method reports.
        achieved: ``keep``, ``compression`` and ``speedup`` reached.
        note: what a reader of the record should know, for instance that only a nearby size was reachable.
        steps: per step of the schedule the requested and the achieved budget, and the PQ and Gini index of all live
            weights before the step, and the step's ``layers``.
        seconds: time spent on pruning, without training in between.
        groups: the node groups as they are now; those of PyTorch's recurrent layers have the paths of the linear layers
            that these were written out as (:mod:`methods.pruning.recurrent`).
        left_alone: for each other group the path of its first writer and why it was not pruned; for edges, layers whose
            weights the method does not see.
        warnings: what deserves a look: layers that keep under 1 % of their units, weights that grew tenfold.
        dense: the network that was pruned.
        predictions: what the method's theory says about the network as a whole, with what was measured.
    """

    model: nn.Module
    unit: str
    kept: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    achieved: dict[str, float] = field(default_factory=dict)
    note: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    groups: list[NodeGroup] = field(default_factory=list)
    left_alone: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    dense: nn.Module | None = None
    predictions: list[dict[str, Any]] = field(default_factory=list)


def warnings_of(dense: nn.Module, pruned: Pruned) -> list[str]:
    """Return a line for each layer that keeps under 1 % of its units, or whose largest weight grew tenfold."""
    found = little_kept(pruned.layers)
    before = dict(dense.named_modules())
    for path, module in pruned.model.named_modules():
        kind = find_kind(module)
        if kind is None or path not in before or find_kind(before[path]) is not kind:
            continue
        old, new = (float(kind.matrix(each).detach().abs().max()) for each in (before[path], module))
        if new >= GROWTH * old > 0:
            found.append(f"the largest weight of {path} grew from {old:.3g} to {new:.3g}")
    return found


def little_kept(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each of ``layers`` (``name``, ``units``, ``kept``) that keeps under 1 % of its units."""
    return [
        f"{layer['name']} keeps {layer['kept']} of {layer['units']} units, under 1 %"
        for layer in layers
        if layer["kept"] < LITTLE * layer["units"]
    ]
