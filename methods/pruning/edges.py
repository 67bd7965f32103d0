"""Carry out one step of pruning edges: find sizes that meet the budget, choose masks, repair what is left."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from methods.budgets.budget import Budget, Cost, EdgeCost
from methods.budgets.joint import choose_jointly, spread_of
from methods.budgets.meeting import meet, shortfall
from methods.layers.statistics import Calibration
from methods.layers.views import at_most_live, edge_layers, edge_views
from methods.network.kinds.registry import kind_of, write_parameters
from methods.pruned import Pruned
from methods.pruning.checks import Parts, exactly, naming, spend
from methods.selection import selects_edges


def prune_edges(
    parts: Parts,
    result: Pruned,
    calibration: Calibration,
    target: Budget,
    dense: Cost,
    seed: str,
    rewind: nn.Module | None,
) -> tuple[list[dict[str, Any]], Cost, str | None]:
    """Prune single weights of ``result.model`` in place until it meets ``target``.

    Args:
        parts: how many units stay, which, and how these make up for the others.
        result: the network so far; its masks are written.
        calibration: samples that the parts may look at.
        target: budget of this step.
        dense: cost of the network before any pruning.
        seed: root of the random streams of this step.
        rewind: not changed, since masks leave its structure as it is.

    Returns:
        A row per layer, the cost, and a note if something is unusual.

    Raises:
        Unreachable: if the budget cannot be reached.
        BadInput: if the selection breaks its contract.
    """
    selection = parts.selection
    assert selects_edges(selection)
    model, example = result.model, calibration.inputs[:2]
    names = edge_layers(model, example)
    cost = EdgeCost(model, example, names)
    layers = edge_views(copy.deepcopy(model), names, result.masks, calibration, seed)
    family = at_most_live(parts.allocation.family_within(layers, selection, spend(cost, target, dense)), layers)
    with naming(result.left_alone):
        counts, note = meet(target, family, cost, dense, parts.allocation.partial)
    if selection.joint and note is None:  # with a note the allocation's rule, not the budget, sets the sizes
        masks = choose_jointly(
            target,
            lambda total: selection.select_all(layers, spread_of(counts, total)),
            sum(int(count.sum()) if isinstance(count, Tensor) else count for count in counts.values()),
            sum(int(layer.live.sum()) for layer in layers),
            cost,
            dense,
        )
    else:
        masks = selection.select_all(layers, counts)
    masks = exactly(selection, layers, masks, {} if selection.joint else counts)
    report = [
        {"name": layer.name, "units": layer.size, "kept": int(masks[layer.name].sum())}
        | selection.report(layer, masks[layer.name])
        for layer in layers
    ]
    changed = [layer for layer in layers if not bool(masks[layer.name].all())]
    weights = parts.compensation.edge_weights(changed, masks, parts.selection)
    biases = parts.compensation.edge_biases(changed, masks, parts.selection)
    with torch.no_grad():
        for layer in layers:
            module = model.get_submodule(layer.name)
            mask = masks[layer.name]
            result.masks[f"{layer.name}.weight"] = kind_of(module).stored_like(module, mask)
            if layer.name in weights:
                write_parameters(module, weights[layer.name] * mask)
            write_parameters(module, bias=biases.get(layer.name))
    layers[0].shared.clear()  # gradients can be gigabytes, and reference cycles between the layers would keep them
    # a method that chooses jointly over the network may distribute the units differently from the allocation
    actual = cost({name: int(mask.sum()) for name, mask in masks.items()})
    return report, actual, note or shortfall(target, actual, dense, "the selection's own distribution")
