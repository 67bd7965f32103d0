"""Run the loop that all methods share: allocate, select, compensate, remove, in one step or in several."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from methods.allocation import Allocation, Uniform
from methods.budgets.budget import Budget, Cost, EdgeCost, NodeCost
from methods.compensation import Compensation
from methods.errors import Skipped
from methods.layers.statistics import Calibration
from methods.layers.views import (
    edge_layers,
    live_weights,
    pruned_before,
    without_edges,
)
from methods.network.graph import NetworkGraph
from methods.network.ownership import require_copyable, require_finite
from methods.network.sparsity import network_sparsity
from methods.pruned import Pruned, warnings_of
from methods.pruning.checks import RESTRUCTURED, Parts, require_fitting
from methods.pruning.edges import prune_edges
from methods.pruning.nodes import prune_nodes
from methods.pruning.writing_out import opaque_layers, put_together, put_together_names, write_out, write_out_unseen
from methods.schedule import Schedule
from methods.selection import AnySelection

Step = Callable[..., tuple[list[dict[str, Any]], Cost, str | None]]
Train = Callable[[nn.Module, Mapping[str, Tensor], int], None]


@runtime_checkable
class Restructured(Protocol):
    """A module that has replaced a layer and can take over that layer's weights."""

    def take_coordinates(self, source: nn.Module) -> None:
        """Take the weights that come nearest to ``source``, a layer of the old shape."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters by name, as of every module."""


@runtime_checkable
class Restructuring(Protocol):
    """What a selection of unit ``eigen`` or ``block`` does in addition: it builds the smaller network itself."""

    def dense_cost(self, model: nn.Module, example: Tensor) -> Cost:
        """Cost of a network before it is pruned."""

    def restructure(
        self, model: nn.Module, calibration: Calibration, budget: Budget, dense: Cost | None = None
    ) -> tuple[nn.Module, Cost, list[dict[str, Any]], str | None]:
        """A new network that meets ``budget``, its cost, a row per layer, and a note if something is unusual."""


class Pruner:
    """A pruning method: how many units (allocation), which (selection), how to repair (compensation), when (schedule).

    Args:
        selection: which units stay.
        allocation: how many stay in each layer.
        compensation: how the survivors make up for the removed units.
        schedule: one-shot or in steps.
        prune_residual: whether the residual stream of a residual network is pruned too, as one coupled group.

    Raises:
        BadInput: if the parts do not fit together.
    """

    def __init__(
        self,
        selection: AnySelection,
        allocation: Allocation | None = None,
        compensation: Compensation | None = None,
        schedule: Schedule | None = None,
        prune_residual: bool = False,
    ) -> None:
        self.selection = selection
        self.allocation = allocation or Uniform()
        self.compensation = compensation or Compensation()
        require_fitting(self.selection, self.allocation, self.compensation)
        self.schedule = schedule or Schedule()
        self.prune_residual = prune_residual

    def require_budget(self, budget: Budget) -> None:
        """Refuse a budget that these parts cannot meet in any network, at the end or at a step of the schedule.

        Raises:
            BadInput: the parts cannot meet it.
        """
        for target in self.schedule.targets(budget):
            self.selection.require_budget(target)

    def graph_of(self, model: nn.Module, example: Tensor) -> NetworkGraph:
        """The groups of nodes of a network that these parts prune; any others are left alone, with the reason."""
        graph = NetworkGraph(model, example, residual=self.prune_residual)
        graph.leave_alone(lambda group: self.selection.leaves_alone(group) or self.compensation.leaves_alone(group))
        return graph

    def prune(
        self,
        model: nn.Module,
        calibration: Calibration,
        budget: Budget,
        seed: int = 0,
        train: Train | None = None,
        rewind: nn.Module | None = None,
    ) -> Pruned:
        """A pruned copy of ``model`` that meets ``budget``; ``model`` itself is left untouched.

        Args:
            model: the dense network.
            calibration: samples that selections and compensations may look at.
            budget: what the whole model may cost.
            seed: root seed of every random stream of the method.
            train: called as ``train(model, masks, step)`` between the steps of an iterative schedule.
            rewind: a network of the same structure whose weights the survivors take after each step.

        Raises:
            BadInput: if no allocation reaches the budget or the parts do not fit together; if a calibration input or a
                weight is NaN or infinite, or the network cannot be copied; if the selection breaks its contract.
            Skipped: if the network has a structure that cannot be pruned.
        """
        parts = Parts(self.selection, self.allocation, self.compensation)
        steps: Mapping[str, Step] = {
            "node": partial(prune_nodes, parts),
            "edge": partial(prune_edges, parts),
            "eigen": self._restructure,
            "block": self._restructure,
            "exact": self._restructure,
            "rank": self._restructure,
        }
        self.require_budget(budget)
        require_copyable(model)
        require_finite(model, calibration.inputs, calibration.labels)
        given, rewind = model, copy.deepcopy(rewind)
        if self.selection.unit != "eigen" and opaque_layers(model):
            model = copy.deepcopy(model)
            if write_out(model, calibration.inputs[:2]) and rewind is not None:
                write_out_unseen(rewind, model)
        result = Pruned(copy.deepcopy(model), "edge" if self.selection.unit == "edge" else "node", dense=model)
        step = steps[self.selection.unit]
        dense = self._dense_cost(result, calibration.inputs)
        initial: dict[str, int] = {}
        targets = self.schedule.targets(budget)
        for number, target in enumerate(targets):
            sparsity = network_sparsity(dict(result.model.named_parameters()), result.masks)
            started = time.perf_counter()
            layers, cost, result.note = step(result, calibration, target, dense, derive(seed, number), rewind)
            result.seconds += time.perf_counter() - started
            for layer in layers:
                layer["units"] = initial.setdefault(layer["name"], layer["units"])
            if self.selection.unit == "node":  # of groups that the step has left alone none can be pruned
                prunable = sum(layer["units"] for layer in layers if layer["name"] not in result.left_alone)
                dense = replace(dense, keep=prunable)
            result.layers, result.achieved = layers, cost.achieved(dense)
            result.steps.append({"requested": target.value, **result.achieved, **sparsity, "layers": layers})
            if rewind is not None:
                _take_weights(result.model, rewind, result.masks)
                if self.schedule.rewind == "new":
                    _keep_scale(result.model, model, result.masks)
            limit = budget.remaining * dense.of(budget.kind)
            if target == budget and cost.of(budget.kind) <= limit * (1 + budget.tolerance):
                break  # nothing is left to prune; more training would only repeat the last one
            if train is not None and self.schedule.between and number < len(targets) - 1:
                train(result.model, result.masks, number)
        result.warnings = warnings_of(model, result)
        result.predictions = self.selection.predictions(model, result, calibration)
        result.masks = put_together_names(result.model, result.masks)
        put_together(result.model)
        result.dense = given
        return result

    def _dense_cost(self, result: Pruned, example: Tensor) -> Cost:
        model = result.model
        if self.selection.unit == "edge":
            names = edge_layers(model, example)
            result.left_alone = without_edges(model, names)
            if not names:
                reasons = "; ".join(f"{path}: {reason}" for path, reason in result.left_alone.items())
                raise Skipped(f"no layer of this network has single weights to prune ({reasons or 'it has no layer'})")
            result.masks = pruned_before(model, names)
            edges = EdgeCost(model, example, names)
            return edges(live_weights(edges.sizes, result.masks))
        if self.selection.unit in RESTRUCTURED:
            assert isinstance(self.selection, Restructuring)
            return self.selection.dense_cost(model, example)
        graph = self.graph_of(model, example)
        graph.require_groups()
        result.groups, result.left_alone = graph.groups, graph.left_alone
        nodes = NodeCost(model, example, graph.groups)
        return nodes(nodes.sizes)

    # --- selections that build the smaller network themselves --------------------------------------------------------

    def _restructure(
        self, result: Pruned, calibration: Calibration, target: Budget, dense: Cost, seed: str, rewind: nn.Module | None
    ) -> tuple[list[dict[str, Any]], Cost, str | None]:
        """Let the selection build the smaller network, for instance without some blocks."""
        assert isinstance(self.selection, Restructuring)
        result.model, cost, report, note = self.selection.restructure(result.model, calibration, target, dense)
        return report, cost, note


def derive(seed: int, step: int) -> str:
    """Root of the random streams of one step; step 0 is the same for every schedule."""
    return f"{seed}/step{step}"


@torch.no_grad()
def _take_weights(model: nn.Module, source: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Copy parameters of ``source`` into ``model``, off-mask weights zero; buffers (batch-norm statistics) stay.

    A layer that was split in its eigenbasis keeps its directions and takes its coordinates in them.
    """
    values = dict(source.named_parameters())
    split: dict[str, Restructured] = {
        path: module for path, module in model.named_modules() if isinstance(module, Restructured)
    }
    for path, module in split.items():
        module.take_coordinates(source.get_submodule(path))
    inside = {f"{path}.{name}" for path, module in split.items() for name, _ in module.named_parameters()}
    for name, parameter in model.named_parameters():
        if name in inside:
            continue
        parameter.copy_(values[name] * masks[name] if name in masks else values[name])


@torch.no_grad()
def _keep_scale(model: nn.Module, dense: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Rescale weights that were drawn for the dense network to the spread that suits the inputs that are left.

    Initial weights are drawn so that a unit's output has a fixed variance, with a variance that falls as the inputs'
    number d rises; k of d inputs (live weights of a masked unit, on average) therefore take sqrt(d / k) times as much.
    """
    before = dict(dense.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and name in before:
            inputs = before[name][0].numel()
            live = int(masks[name].sum()) / len(parameter) if name in masks else parameter[0].numel()
            parameter.mul_((inputs / max(live, 1)) ** 0.5)
