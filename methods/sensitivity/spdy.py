"""SPDY learns how sensitive each layer is by trying the sizes that a solver finds with given sensitivities.

Frantar and Alistarh, "SPDY: Accurate Pruning with Speedup Guarantees" (ICML 2022), section 3. The error of layer l at
the i-th of the sizes 0, ..., n (0 the whole layer) is taken to be

    e_l(i) = c_l (i / n)^2,

dynamic programming gives the sizes of least total error within the budget, and the coefficients c are searched: first
at random in [0, 1], then by drawing some of them again, fewer and fewer, and keeping a draw if the network with the
resulting sizes has a lower loss on the calibration samples. Each layer's weights at each size are made once, as if this
layer alone were pruned (the "reconstruction database"), and put together for every trial.

Ours, where it differs: the budget is the suite's (parameters, MACs or weights instead of a measured time), the
network is evaluated with its running batch-norm statistics, and with fewer than ten layers one is still drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import cast

import torch
from torch import Tensor

from methods.allocation import Allocation
from methods.budgets.budget import Counts, Family
from methods.budgets.multiplier import Spend
from methods.compensation import Compensation
from methods.errors import BadInput
from methods.layers.seen import EdgeLayer
from methods.layers.statistics import Calibration
from methods.network.kinds.registry import matrix_of, write_parameters
from methods.progress import track
from methods.seeds import stream
from methods.selection import Seen, Selection
from methods.sensitivity.allocation import first
from methods.sensitivity.alone import chosen, loss_and_accuracy, repaired_alone
from methods.sensitivity.knapsack import cheapest

SPARSEST = 0.01  # of a layer's weights, the last size
TURNS = 100  # draws without success, after which fewer coefficients are drawn
SHARE = 0.1  # of the coefficients that are drawn again at first


class SPDY(Allocation):
    """Finds the sizes of least total error under learned sensitivities.

    Args:
        compensation: of the method, for the weights of each layer at each size; None: none.
        levels: sizes below the whole layer, in even ratios down to 1 %; the paper's are about 44, a tenth less each.
        trials: random coefficients that the search begins with; 0: all are 1.
        turns: number of draws without success after which fewer coefficients are drawn.
        samples: calibration samples on which the loss is measured.
    """

    units = frozenset({"edge"})

    def __init__(
        self,
        compensation: Compensation | None = None,
        levels: int = 20,
        trials: int = 100,
        turns: int = TURNS,
        samples: int = 500,
    ) -> None:
        if levels < 1 or trials < 0 or turns < 0 or samples < 1:
            raise BadInput(
                "allocation.levels and allocation.samples are at least 1, allocation.trials and allocation.turns at "
                "least 0; type for instance allocation.levels=20 allocation.trials=100"
            )
        self.compensation = compensation or Compensation()
        self.levels, self.trials, self.turns, self.samples = levels, trials, turns, samples

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """As :meth:`family_within`, where every weight costs the same and no coefficient is searched."""
        return self.family_within(layers, selection, lambda counts: float(sum(int(count) for count in counts.values())))

    def family_within(self, layers: Sequence[Seen], selection: Selection[Seen], spend: Spend) -> Family:
        """The sizes of least error; s is the share of the cost above the minimum that may remain.

        The coefficients are searched once, at the limit of ``spend``; all are 1 if it has no limit.
        """
        edges = [layer for layer in layers if isinstance(layer, EdgeLayer)]
        if len(edges) < len(layers):
            raise BadInput(
                "allocation=spdy needs costs that add up over layers, which those of single weights do; use a method "
                "with unit edge, or allocation=sensitivity for nodes"
            )
        plan = Plan(edges, spend, self.levels)
        coefficients = [1.0] * len(edges)
        limit = getattr(spend, "limit", None)
        if self.trials and limit is not None and plan.room(limit) > 0:
            chooses = cast(Selection[EdgeLayer], selection)  # all layers are of edges
            coefficients = self.searched(edges, chooses, plan, plan.room(limit))

        def counts(s: float) -> Counts:
            return plan.at(coefficients, s * plan.room(plan.full)) if s < 1 else dict(plan.live)

        return counts

    def searched(
        self, layers: Sequence[EdgeLayer], selection: Selection[EdgeLayer], plan: Plan, room: float
    ) -> list[float]:
        """The coefficients found by the search whose sizes give the network its lowest loss."""
        network = Stitched(layers, selection, self.compensation, plan, first(layers[0].calibration, self.samples))
        draw = stream(layers[0].calibration.seed, "spdy")
        known: dict[tuple[int, ...], float] = {}

        def loss(coefficients: Sequence[float]) -> float:
            sizes = tuple(plan.numbers(coefficients, room))
            if sizes not in known:
                known[sizes] = network.loss(sizes)
            return known[sizes]

        def drawn(number: int) -> list[float]:
            return torch.rand(number, generator=draw, dtype=torch.float64).tolist()

        starts = [drawn(len(layers)) for _ in range(self.trials)]
        losses = [loss(start) for start in track(starts, "SPDY, random sensitivities", len(starts))]
        best = min(range(len(starts)), key=losses.__getitem__)
        found, lowest = starts[best], losses[best]
        for many in range(max(1, int(SHARE * len(layers))), 0, -1):
            failed = 0
            for _ in track(count(), f"SPDY, {many} drawn anew"):
                if failed >= self.turns:
                    break
                tried = list(found)
                places = torch.randint(len(layers), (many,), generator=draw).tolist()
                for place, value in zip(places, drawn(many), strict=True):
                    tried[place] = value
                failed += 1
                if (reached := loss(tried)) < lowest:
                    found, lowest, failed = tried, reached, 0
        return found


class Plan:
    """Holds the sizes of all layers and their costs, and solves for the best ones."""

    def __init__(self, layers: Sequence[EdgeLayer], spend: Spend, levels: int) -> None:
        self.names = [layer.name for layer in layers]
        self.live = {layer.name: int(layer.live.sum()) for layer in layers}
        shares = [SPARSEST ** (step / levels) for step in range(levels + 1)]
        self.sizes = [[max(1, round(share * self.live[name])) for share in shares] for name in self.names]
        self.full = spend(self.live)
        nothing = dict.fromkeys(self.names, 0)
        self.fixed = spend(nothing)
        prices = [(spend(nothing | {name: self.live[name]}) - self.fixed) / self.live[name] for name in self.names]
        self.costs = [[price * size for size in own] for price, own in zip(prices, self.sizes, strict=True)]
        self.prior = [(step / levels) ** 2 for step in range(levels + 1)]

    def room(self, limit: float) -> float:
        """The part of a limit that is left for the layers' weights."""
        return limit - self.fixed

    def numbers(self, coefficients: Sequence[float], room: float) -> list[int]:
        """For each layer the number of its size; the smallest everywhere where nothing fits."""
        errors = [[coefficient * error for error in self.prior] for coefficient in coefficients]
        least = [len(self.prior) - 1] * len(self.names)
        return (cheapest(errors, self.costs, room) if room > 0 else None) or least

    def at(self, coefficients: Sequence[float], room: float) -> Counts:
        """The counts of the solution."""
        numbers = self.numbers(coefficients, room)
        return {name: own[number] for name, own, number in zip(self.names, self.sizes, numbers, strict=True)}


class Stitched:
    """Builds networks from layers that were pruned alone."""

    def __init__(
        self,
        layers: Sequence[EdgeLayer],
        selection: Selection[EdgeLayer],
        compensation: Compensation,
        plan: Plan,
        samples: Calibration,
    ) -> None:
        self.layers, self.samples = layers, samples
        self.weights: list[list[tuple[Tensor, Tensor | None]]] = []
        todo = [(layer, size) for layer, own in zip(layers, plan.sizes, strict=True) for size in own[1:]]
        for layer, size in track(todo, "SPDY, each layer alone", len(todo)):
            if not self.weights or layer is not layers[len(self.weights) - 1]:
                self.weights.append([(layer.weight.float(), layer.bias)])
            mask = chosen(selection, layer, size)
            weight, bias = repaired_alone(layer, mask, compensation, selection)
            self.weights[-1].append((weight.float(), bias if bias is not None else layer.bias))

    def loss(self, numbers: Sequence[int]) -> float:
        """Mean loss with each layer at the size of this number."""
        with self._put_together(numbers):
            return loss_and_accuracy(self.layers[0].model, self.samples)[0]

    @contextmanager
    def _put_together(self, numbers: Sequence[int]) -> Iterator[None]:
        modules = [layer.model.get_submodule(layer.name) for layer in self.layers]
        before = [matrix_of(module).detach().clone() for module in modules]
        try:
            for module, own, number in zip(modules, self.weights, numbers, strict=True):
                write_parameters(module, *own[number])
            yield
        finally:
            for module, weight, own in zip(modules, before, self.weights, strict=True):
                write_parameters(module, weight, own[0][1])
