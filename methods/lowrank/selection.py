"""Choose the ranks of layers: all have the same relative error, the smallest with which the budget is met.

ALDS (Liebenwein, Maalouf, Feldman and Rus, "Compressing Neural Networks: Towards Determining the Optimal Layer-wise
Decomposition", NeurIPS 2021, arXiv 2107.11442; see :mod:`methods.lowrank.split`) asks for the least possible largest
relative error over layers at a budget. For a given error each layer alone can take its cheapest split that is at least
as exact, so that the least error at which these fit is the solution; the paper searches slices and ranks by turns, from
several starts, instead. With one slice it is the plain singular value decomposition.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from methods.budgets.budget import Budget, Cost, Counts, output_positions
from methods.budgets.meeting import meet
from methods.errors import BadInput, Skipped
from methods.layers.seen import Layer
from methods.layers.statistics import Calibration
from methods.layers.views import edge_layers
from methods.lowrank.split import SPLIT, LowRank, Option, options, split
from methods.network.counting import count_macs
from methods.network.kinds.registry import kind_of
from methods.progress import track
from methods.selection import Selection


class LowRankSelection(Selection[Layer]):
    """Splits layers in two by their singular values until the budget is met.

    Args:
        slices: largest number of slices of a convolution's input channels; 1: plain singular value decomposition.
    """

    unit = "rank"

    def __init__(self, slices: int = 1) -> None:
        if slices < 1:
            raise BadInput(f"selection.slices={slices} is below 1; type selection.slices=1, or 8 for ALDS")
        self.slices = slices

    def dense_cost(self, model: nn.Module, example: Tensor) -> Cost:
        """Ranks of the layers that may be split, parameters and MACs."""
        plan = _Plan(model, example[:2], 1)
        return plan.cost(plan.sizes)

    def restructure(
        self, model: nn.Module, calibration: Calibration, budget: Budget, dense: Cost | None = None
    ) -> tuple[nn.Module, Cost, list[dict[str, Any]], str | None]:
        """A new network that meets ``budget``, its cost, a row per layer, and a note if something is unusual.

        Args:
            model: the network; left as it is.
            calibration: only the shape of its inputs is used.
            budget: for the whole model; ``keep`` is the fraction of ranks.
            dense: cost that the budget is relative to; by default that of ``model``.

        Raises:
            Skipped: no layer can be split; an earlier step has split the network already.
            Unreachable: the network costs more even with rank 1 everywhere.
        """
        plan = _Plan(model, calibration.inputs[:2], self.slices)
        counts, note = meet(budget, plan.family, plan.cost, dense or plan.cost(plan.sizes))
        return plan.build(counts), plan.cost(counts), plan.report(counts), note


class _Plan:
    """Holds every layer's splits, computes what they cost, and builds the network with some of them.

    Counts are numbers of options, from 1: the cheapest, to all: the layer as it is.
    """

    def __init__(self, model: nn.Module, example: Tensor, slices: int) -> None:
        if any(isinstance(module, LowRank) for module in model.modules()):
            raise Skipped("a network that is split already is not split again: type schedule=one_shot")
        self.model, self.options = model, dict[str, list[Option]]()
        for path in track(edge_layers(model, example), "singular values, layers"):
            module = model.get_submodule(path)
            if type(module) in SPLIT and kind_of(module).groups(module) == 1:
                self.options[path] = options(module, slices)
        if not self.options:
            raise Skipped("no layer of this network can be split in two: none is linear or an ungrouped convolution")
        positions = output_positions(model, example)
        self.positions = {path: positions[path] for path in self.options}
        self.sizes = {path: len(own) for path, own in self.options.items()}
        whole = {path: own[-1].weights for path, own in self.options.items()}
        self.other_weights = sum(parameter.numel() for parameter in model.parameters()) - sum(whole.values())
        macs = sum(weights * self.positions[path] for path, weights in whole.items())
        self.other_macs = count_macs(model, example) - macs
        self.errors = sorted({option.error for own in self.options.values() for option in own}, reverse=True)

    def family(self, s: float) -> Counts:
        """Each layer's cheapest split with at most a common error, which falls as s rises; s = 1 splits none."""
        if s >= 1:
            return dict(self.sizes)
        most = self.errors[round(s * (len(self.errors) - 1))]
        return {
            path: next(number for number, option in enumerate(own, 1) if option.error <= most)
            for path, own in self.options.items()
        }

    def cost(self, counts: Counts) -> Cost:
        """Ranks, parameters and MACs."""
        chosen = {path: own[int(counts[path]) - 1] for path, own in self.options.items()}
        units = sum(_kept(option, self.options[path]) for path, option in chosen.items())
        weights = self.other_weights + sum(option.weights for option in chosen.values())
        macs = self.other_macs + sum(option.weights * self.positions[path] for path, option in chosen.items())
        return Cost(units, weights, macs)

    def build(self, counts: Counts) -> nn.Module:
        """A new network with these splits."""
        model = copy.deepcopy(self.model)
        for path, own in self.options.items():
            option = own[int(counts[path]) - 1]
            if option.slices:
                model.set_submodule(path, split(self.model.get_submodule(path), option))
        return model

    def report(self, counts: Counts) -> list[dict[str, Any]]:
        """For each layer its full rank, the rank that stays, in how many slices (0: not split), and the error."""
        rows = []
        for path, own in self.options.items():
            option, full = own[int(counts[path]) - 1], own[-1].rank
            kept = _kept(option, own)
            row = {"name": path, "units": full, "kept": kept, "slices": option.slices, "relative_error": option.error}
            rows.append(row)
        return rows


def _kept(option: Option, own: list[Option]) -> int:
    """Ranks of all slices together, at most the layer's own."""
    return min(max(1, option.slices) * option.rank, own[-1].rank)
