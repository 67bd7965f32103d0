"""Carry out one step of pruning nodes: find sizes that meet the budget, choose units, repair the readers, remove."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from methods.budgets.budget import Budget, Cost, Count, NodeCost
from methods.budgets.latency_cost import LatencyCost
from methods.budgets.meeting import meet
from methods.compensation import Reconstruction
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration
from methods.layers.views import node_views, paired_moments
from methods.network.graph import NetworkGraph, NodeGroup
from methods.network.kinds.registry import matrix_of, write_parameters
from methods.network.parameters import bias_of
from methods.network.verification import misunderstood, remove_all
from methods.pruned import Pruned
from methods.pruning.checks import Parts, exactly, naming, spend
from methods.selection import Selection, require_exact, selects_nodes

NUMBERS_COMPARED = 2**14  # in all inputs on which the pruned network is compared with the dense one
LEAST_COMPARED, MOST_COMPARED = 2, 32  # inputs


def prune_nodes(
    parts: Parts,
    result: Pruned,
    calibration: Calibration,
    target: Budget,
    dense: Cost,
    seed: str,
    rewind: nn.Module | None,
) -> tuple[list[dict[str, Any]], Cost, str | None]:
    """Prune nodes of ``result.model`` until it meets ``target``.

    Where it turns out that removing nodes of a group does not do what was meant, the group is left alone, with the
    reason, and the step is taken again without it.

    Args:
        parts: how many units stay, which, and how these make up for the others.
        result: the network so far; its groups and kept nodes are written.
        calibration: samples that the parts may look at.
        target: budget of this step.
        dense: cost of the network before any pruning.
        seed: root of the random streams of this step.
        rewind: a network of the same structure that loses the same nodes.

    Returns:
        A row per layer, the cost, and a note if something is unusual.

    Raises:
        Unreachable: if the budget cannot be reached.
        BadInput: if the selection breaks its contract.
        Skipped: if no group is left.
    """
    original, groups = copy.deepcopy(result.model), result.groups
    units = {row["name"]: row["units"] for row in result.layers}  # before the first step
    while True:
        outcome = _pruned(parts, result, original, calibration, target, dense, seed)
        reasons = misunderstood(original, groups, result.kept, _looked_at(calibration.inputs))
        if not reasons:
            break
        left = _left(original, groups, result.left_alone, reasons)
        gone = sum(units.get(group.name, group.size) for group in groups if group.name in reasons)
        dense = replace(dense, keep=dense.keep - gone)
        result.model, result.groups, result.left_alone = left.model, left.groups, left.left_alone
        groups = left.groups
    if rewind is not None:
        remove_all(rewind, groups, result.kept)
    report, cost, note = outcome
    # rows of groups that earlier steps have pruned and that are left alone from now on
    return report + [row for row in result.layers if row["name"] in result.left_alone], cost, note


def _left(
    original: nn.Module, groups: Sequence[NodeGroup], left_alone: Mapping[str, str], reasons: Mapping[str, str]
) -> NetworkGraph:
    """The graph of a copy of the network, without the groups that ``reasons`` names."""
    graph = NetworkGraph.of(copy.deepcopy(original), groups)
    graph.left_alone |= left_alone
    graph.leave_alone(lambda group: reasons.get(group.name))
    graph.require_groups()
    return graph


def _pruned(
    parts: Parts,
    result: Pruned,
    original: nn.Module,
    calibration: Calibration,
    target: Budget,
    dense: Cost,
    seed: str,
) -> tuple[list[dict[str, Any]], Cost, str | None]:
    """One try of :func:`prune_nodes`; ``original`` is the network before it, which is not changed."""
    selection = parts.selection
    assert selects_nodes(selection)
    model, example = result.model, calibration.inputs[:2]
    graph = NetworkGraph.of(model, result.groups)
    groups = result.groups
    counted = NodeCost(model, example, groups)
    cost: NodeCost | LatencyCost = counted
    if target.measured:
        assert result.dense is not None
        timed = NetworkGraph.of(original, groups)
        cost = LatencyCost(timed, counted, result.dense, calibration.inputs[: target.batch])
    layers = node_views(original, groups, calibration, seed)
    family = parts.allocation.family_within(layers, selection, spend(counted, target, dense))
    with naming(result.left_alone):
        counts, note = meet(target, family, cost, dense, parts.allocation.partial, parts.allocation.steps)
    kept = _select_nodes(selection, layers, counts)
    for layer in layers if kept else ():
        if len(kept[layer.name]) < layer.size:
            _update_writers(parts, model, layer, kept[layer.name])
    report = []
    for layer in layers:
        current = graph.find(layer.name)
        pruned_inputs = selection.order == "forward"
        if pruned_inputs:
            layer = node_views(model, [current], calibration, seed)[0]
            count = counts[layer.name]
            kept[layer.name] = require_exact(selection, layer, selection.select(layer, count), count)
            if len(kept[layer.name]) < layer.size:
                _update_writers(parts, model, layer, kept[layer.name])
        layer.paired = paired_moments(original, model, groups, current, calibration)
        chosen = kept[layer.name]
        report.append({"name": layer.name, "units": layer.size, "kept": len(chosen)})
        if len(chosen) < layer.size:
            report[-1] |= selection.report(layer, chosen)
            _repair(parts, model, layer, current, chosen)
            graph.remove(current, chosen)
    result.kept, result.groups = kept, graph.groups
    return report, cost({name: len(nodes) for name, nodes in kept.items()}), note


def _repair(parts: Parts, model: nn.Module, layer: NodeLayer, current: NodeGroup, kept: Tensor) -> None:
    """Write W A into the columns of the readers that stay."""
    repairs: list[Reconstruction] = parts.compensation.reconstruction(layer, kept, parts.selection)
    with torch.no_grad():
        for reader, repair in zip(current.readers, repairs, strict=False):
            module = model.get_submodule(reader.name)
            weight, bias = matrix_of(module), bias_of(module)
            blocks = reader.weights(weight.double())
            merged = torch.einsum("omr,mk->okr", blocks, repair.matrix)
            reader.put(weight, kept, merged)
            if repair.shift is not None and bias is not None:
                bias += torch.einsum("omr,m->o", blocks, repair.shift).to(bias.dtype)


@torch.no_grad()
def _update_writers(parts: Parts, model: nn.Module, layer: NodeLayer, kept: Tensor) -> None:
    """The method's own changes of the layers that write the nodes; their inputs are still those that the method saw."""
    for path, new in parts.compensation.writer_update(layer, kept, parts.selection).items():
        write_parameters(model.get_submodule(path), *new)


def _select_nodes(
    selection: Selection[NodeLayer], layers: Sequence[NodeLayer], counts: Mapping[str, Count]
) -> dict[str, Tensor]:
    if selection.order == "forward":
        return {}
    if selection.order == "independent":
        return exactly(selection, layers, selection.select_all(layers, counts), counts)
    kept: dict[str, Tensor] = {}
    probability: dict[str, Tensor] = {}
    writer_group = {path: layer.name for layer in layers for path in layer.writers}
    for layer in reversed(layers):
        readers = [writer_group.get(path) for path in layer.readers]
        layer.readers_kept = [kept.get(name) if name else None for name in readers]
        layer.readers_probability = [probability.get(name) if name else None for name in readers]
        count = counts[layer.name]
        kept[layer.name] = require_exact(selection, layer, selection.select(layer, count), count)
        importance = getattr(selection, "row_probability", None)
        if importance is not None:
            probability[layer.name] = importance(layer, kept[layer.name])
    return kept


def _looked_at(inputs: Tensor) -> Tensor:
    """The first inputs, as many as can be compared at little cost; a single input may be large."""
    many = NUMBERS_COMPARED // inputs[0].numel() if inputs.dim() > 1 else 0
    return inputs[: min(max(many, LEAST_COMPARED), MOST_COMPARED)]
