"""The loop that all methods share: allocate, select, compensate, remove, in one step or in several."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from methods.allocation import Allocation, Uniform
from methods.budgets.budget import Budget, Cost, Count, CountCost, EdgeCost, NodeCost, meet, shortfall
from methods.budgets.joint import choose_jointly, spread_of
from methods.budgets.multiplier import Spend
from methods.budgets.stopwatch import TimedCost
from methods.compensation import Compensation, Reconstruction
from methods.errors import BadInput, Skipped
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration
from methods.layers.views import (
    at_most_live,
    edge_layers,
    edge_views,
    live_weights,
    node_views,
    paired_moments,
    pruned_before,
    without_edges,
)
from methods.network.graph import NetworkGraph, NodeGroup
from methods.network.kinds.registry import kind_of, matrix_of, write_parameters
from methods.network.ownership import require_copyable, require_finite
from methods.network.parameters import bias_of
from methods.network.sparsity import network_sparsity
from methods.network.verification import remove_all, require_understood
from methods.pruned import Pruned, warnings_of
from methods.schedule import Schedule
from methods.selection import AnySelection, Seen, Selection, require_exact, selects_edges, selects_nodes

Train = Callable[[nn.Module, Mapping[str, Tensor], int], None]


@runtime_checkable
class Restructured(Protocol):
    """A module that a restructuring has put in the place of a layer, and that can take over that layer's weights."""

    def take_coordinates(self, source: nn.Module) -> None:
        """Become, as nearly as its form allows, what ``source``, a layer of the old shape, is."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As every module has them."""


@runtime_checkable
class Restructuring(Protocol):
    """What a selection of unit ``eigen`` has beside the rest: it makes the smaller network by itself."""

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
        compensation: how the survivors make up for the removed.
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
        _require_fitting(self.selection, self.allocation, self.compensation)
        self.schedule = schedule or Schedule()
        self.prune_residual = prune_residual

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
        steps = {"node": self._prune_nodes, "edge": self._prune_edges, "eigen": self._prune_directions}
        budget.require_fitting(self.selection.unit)
        require_copyable(model)
        require_finite(model, calibration.inputs, calibration.labels)
        result = Pruned(copy.deepcopy(model), "edge" if self.selection.unit == "edge" else "node", dense=model)
        step = steps[self.selection.unit]
        dense = self._dense_cost(result, calibration.inputs)
        initial: dict[str, int] = {}
        rewind = copy.deepcopy(rewind)
        targets = self.schedule.targets(budget)
        for number, target in enumerate(targets):
            sparsity = network_sparsity(dict(result.model.named_parameters()), result.masks)
            started = time.perf_counter()
            layers, cost, result.note = step(result, calibration, target, dense, derive(seed, number), rewind)
            result.seconds += time.perf_counter() - started
            for layer in layers:
                layer["units"] = initial.setdefault(layer["name"], layer["units"])
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
        if self.selection.unit == "eigen":
            assert isinstance(self.selection, Restructuring)
            return self.selection.dense_cost(model, example)
        graph = NetworkGraph(model, example, residual=self.prune_residual)
        graph.require_groups()
        result.groups, result.left_alone = graph.groups, graph.left_alone
        nodes = NodeCost(model, example, graph.groups)
        return nodes(nodes.sizes)

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _prune_nodes(
        self, result: Pruned, calibration: Calibration, target: Budget, dense: Cost, seed: str, rewind: nn.Module | None
    ) -> tuple[list[dict[str, Any]], Cost, str | None]:
        selection = self.selection
        assert selects_nodes(selection)
        model, example = result.model, calibration.inputs[:2]
        original = copy.deepcopy(model)
        graph = NetworkGraph.of(model, result.groups)
        groups = result.groups
        counted = NodeCost(model, example, groups)
        cost: NodeCost | TimedCost = counted
        if target.measured:
            assert result.dense is not None
            timed = NetworkGraph.of(original, groups)
            cost = TimedCost(timed, counted, result.dense, calibration.inputs[: target.batch])
        layers = node_views(original, groups, calibration, seed)
        family = self.allocation.family_within(layers, selection, _spend(counted, target))
        with _naming(result.left_alone):
            counts, note = meet(target, family, cost, dense, self.allocation.partial, self.allocation.steps)
        kept = _select_nodes(selection, layers, counts)
        for layer in layers if kept else ():
            if len(kept[layer.name]) < layer.size:
                self._update_writers(model, layer, kept[layer.name])
        report = []
        for layer in layers:
            current = graph.find(layer.name)
            pruned_inputs = selection.order == "forward"
            if pruned_inputs:
                layer = node_views(model, [current], calibration, seed)[0]
                count = counts[layer.name]
                kept[layer.name] = require_exact(selection, layer, selection.select(layer, count), count)
                if len(kept[layer.name]) < layer.size:
                    self._update_writers(model, layer, kept[layer.name])
            layer.paired = paired_moments(original, model, groups, current, calibration)
            chosen = kept[layer.name]
            report.append({"name": layer.name, "units": layer.size, "kept": len(chosen)})
            if len(chosen) < layer.size:
                report[-1] |= selection.report(layer, chosen)
                self._repair(model, layer, current, chosen)
                graph.remove(current, chosen)
        result.kept, result.groups = kept, graph.groups
        require_understood(original, groups, kept, example)
        if rewind is not None:
            remove_all(rewind, groups, kept)
        return report, cost({name: len(nodes) for name, nodes in kept.items()}), note

    def _repair(self, model: nn.Module, layer: NodeLayer, current: NodeGroup, kept: Tensor) -> None:
        """Write W A into the columns of the readers that stay."""
        repairs: list[Reconstruction] = self.compensation.reconstruction(layer, kept, self.selection)
        with torch.no_grad():
            for reader, repair in zip(current.readers, repairs, strict=False):
                module = model.get_submodule(reader.name)
                weight, bias = matrix_of(module), bias_of(module)
                blocks = reader.weights(weight.double())
                merged = torch.einsum("omr,mk->okr", blocks, repair.matrix)
                columns = reader.columns[kept.cpu()].reshape(-1).to(weight.device)
                shape = (len(weight), len(columns), *weight.shape[2:])
                weight[:, columns] = merged.reshape(shape).to(weight.dtype)
                if repair.shift is not None and bias is not None:
                    bias += torch.einsum("omr,m->o", blocks, repair.shift).to(bias.dtype)

    @torch.no_grad()
    def _update_writers(self, model: nn.Module, layer: NodeLayer, kept: Tensor) -> None:
        """The method's own changes of the layers that write the nodes; their inputs are still those that it saw."""
        for path, new in self.compensation.writer_update(layer, kept, self.selection).items():
            write_parameters(model.get_submodule(path), *new)

    # --- directions --------------------------------------------------------------------------------------------------

    def _prune_directions(
        self, result: Pruned, calibration: Calibration, target: Budget, dense: Cost, seed: str, rewind: nn.Module | None
    ) -> tuple[list[dict[str, Any]], Cost, str | None]:
        """Layers are split in a basis of their own (EigenDamage), which the selection does by itself."""
        assert isinstance(self.selection, Restructuring)
        result.model, cost, report, note = self.selection.restructure(result.model, calibration, target, dense)
        return report, cost, note

    # --- edges -------------------------------------------------------------------------------------------------------

    def _prune_edges(
        self, result: Pruned, calibration: Calibration, target: Budget, dense: Cost, seed: str, rewind: nn.Module | None
    ) -> tuple[list[dict[str, Any]], Cost, str | None]:
        selection = self.selection
        assert selects_edges(selection)
        model, example = result.model, calibration.inputs[:2]
        names = edge_layers(model, example)
        cost = EdgeCost(model, example, names)
        layers = edge_views(copy.deepcopy(model), names, result.masks, calibration, seed)
        family = at_most_live(self.allocation.family_within(layers, selection, _spend(cost, target)), layers)
        with _naming(result.left_alone):
            counts, note = meet(target, family, cost, dense, self.allocation.partial)
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
        masks = _exact(selection, layers, masks, {} if selection.joint else counts)
        report = [
            {"name": layer.name, "units": layer.size, "kept": int(masks[layer.name].sum())}
            | selection.report(layer, masks[layer.name])
            for layer in layers
        ]
        changed = [layer for layer in layers if not bool(masks[layer.name].all())]
        weights = self.compensation.edge_weights(changed, masks, self.selection)
        biases = self.compensation.edge_biases(changed, masks, self.selection)
        with torch.no_grad():
            for layer in layers:
                module = model.get_submodule(layer.name)
                mask = masks[layer.name]
                result.masks[f"{layer.name}.weight"] = kind_of(module).stored_like(module, mask)
                if layer.name in weights:
                    write_parameters(module, weights[layer.name] * mask)
                write_parameters(module, bias=biases.get(layer.name))
        layers[0].shared.clear()  # gradients can be gigabytes; the layers hold each other, so they would stay a while
        # a method that chooses jointly over the network may spread the units otherwise than the allocation did
        actual = cost({name: int(mask.sum()) for name, mask in masks.items()})
        return report, actual, note or shortfall(target, actual, dense, "the selection's own distribution")


def _spend(cost: CountCost, target: Budget) -> Spend:
    """What the budget counts, at given counts; a time of a forward pass is taken to go with the MACs."""
    kind = "speedup" if target.measured else target.kind
    return lambda counts: cost(counts).of(kind)


@contextmanager
def _naming(left_alone: Mapping[str, str]) -> Iterator[None]:
    """A budget that cannot be reached is said with what was left alone: that is often why."""
    try:
        yield
    except BadInput as error:
        if not left_alone:
            raise
        first, *others = left_alone.items()
        more = f", and {len(others)} more" if others else ""
        raise BadInput(f"{error}\nleft alone: {first[0]} ({first[1]}){more}; see python -m benchmarks.groups") from None


def _select_nodes(
    selection: Selection[NodeLayer], layers: Sequence[NodeLayer], counts: Mapping[str, Count]
) -> dict[str, Tensor]:
    if selection.order == "forward":
        return {}
    if selection.order == "independent":
        return _exact(selection, layers, selection.select_all(layers, counts), counts)
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


def _exact(
    selection: Selection[Seen], layers: Sequence[Seen], kept: Mapping[str, Tensor], counts: Mapping[str, Count]
) -> dict[str, Tensor]:
    """What the selection kept in every layer, if it is as many units as ``counts`` says where that names the layer."""
    if missing := [layer.name for layer in layers if layer.name not in kept]:
        raise BadInput(
            f"{type(selection).__name__}.select_all has nothing for layer {missing[0]}; expected every layer"
        )
    return {layer.name: require_exact(selection, layer, kept[layer.name], counts.get(layer.name)) for layer in layers}


def _require_fitting(selection: AnySelection, allocation: Allocation, compensation: Compensation) -> None:
    """Raise :class:`BadInput` for parts that would silently do nothing together."""
    unit = selection.unit
    if unit not in ("node", "edge", "eigen"):
        raise BadInput(f"selection.unit={unit} is unknown; choose node or edge")
    if unit not in compensation.units:
        able = " and ".join(sorted(compensation.units - {"eigen"}))
        usable = "compensation=none" if unit == "eigen" else "compensation=least_squares or compensation=none"
        raise BadInput(
            f"{type(compensation).__name__} repairs what is left of {able} units, but {type(selection).__name__} "
            f"removes {unit} units, so it would do nothing\ntype {usable}"
        )
    if unit == "eigen" and type(allocation) is not Uniform:
        raise BadInput(
            f"{type(selection).__name__} ranks the directions of all layers by itself, so that "
            f"{type(allocation).__name__} would do nothing\ntype allocation=uniform"
        )


def derive(seed: int, step: int) -> str:
    """Root of the random streams of one step; step 0 is the same for every schedule."""
    return f"{seed}/step{step}"


@torch.no_grad()
def _take_weights(model: nn.Module, source: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Parameters of ``source`` into ``model``, off-mask weights zero; buffers such as batch-norm statistics stay.

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
    """Weights drawn for the dense network get the spread that the inputs which are left call for.

    Initial weights are drawn so that a unit's output has a fixed variance, with a variance that falls as the inputs'
    number d rises; k of d inputs (live weights of a masked unit, on average) therefore take sqrt(d / k) times as much.
    """
    before = dict(dense.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and name in before:
            inputs = before[name][0].numel()
            live = int(masks[name].sum()) / len(parameter) if name in masks else parameter[0].numel()
            parameter.mul_((inputs / max(live, 1)) ** 0.5)
