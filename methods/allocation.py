"""Allocations decide how many units each layer keeps.

An allocation is a family of counts, monotone in one scalar s in [0, 1] with s = 1 keeping everything; the pruner finds
the s at which the whole model meets its budget (``methods.budgets.budget.meet``). Every layer keeps at least one unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from methods.budgets.budget import Counts, Family
from methods.budgets.multiplier import CoupledPrices, Spend
from methods.errors import BadInput, Skipped
from methods.layers.seen import EdgeLayer, NodeLayer
from methods.selection import Seen, Selection, checked_scores

SAME_PRICE = 1e-9  # relative difference of prices that counts as none


class Allocation:
    """Base class of all allocations.

    Attributes:
        units: the kinds of unit (``node``, ``edge``) whose layers this allocation can size.
        even: whether every layer keeps the same fraction of its units, the one that the budget asks for.
        partial: whether a step may end above its target, because s = 0 is as far as one step can go.
        steps: for each layer the allowed sizes, ascending; None if every size is allowed.
    """

    units: frozenset[str] = frozenset({"node", "edge", "eigen", "block", "exact", "rank"})
    even: bool = False
    partial: bool = False
    steps: Mapping[str, Sequence[int]] | None = None

    def require_fitting(self, selection: Selection[Any]) -> None:
        """Refuse a selection with which this allocation cannot work, whatever the network is.

        Raises:
            BadInput: the selection removes other units, fixes the fraction of every layer, or lacks something needed.
        """
        name, chooser = type(self).__name__, type(selection).__name__
        if selection.unit not in self.units:
            able = " and ".join(sorted(self.units & {"node", "edge"}))
            raise BadInput(
                f"the allocation {name} sizes layers of {able} units, but {chooser} removes {selection.unit} units\n"
                f"type allocation=uniform, or choose a method that removes {able} units"
            )
        if selection.share is not None and not self.even:
            raise BadInput(
                f"{chooser} keeps {selection.share:.3g} of every layer, and the allocation {name} gives layers other "
                "shares\ntype allocation=uniform"
            )

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """Counts per layer as a monotone function of s in [0, 1]."""
        raise NotImplementedError

    def family_within(self, layers: Sequence[Seen], selection: Selection[Seen], spend: Spend) -> Family:
        """Like :meth:`family`, for allocations that also consider costs; ``spend`` is the cost that the budget limits.

        The pruner calls this one. Most allocations do not look at costs.
        """
        return self.family(layers, selection)


class Uniform(Allocation):
    """Keeps the same fraction of units in every layer."""

    even = True

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """Round(s m) units of m, at least one."""
        sizes = {layer.name: layer.size for layer in layers}
        return lambda s: {name: max(1, round(s * size)) for name, size in sizes.items()}


class Global(Allocation):
    """Ranks all units of the network by score and keeps those above a common threshold.

    With ``per_cost`` the ranking is by score per unit of what the budget counts (nodes, parameters, MACs). Where scores
    add up to a loss, that is the solution of

        max  sum of the kept scores   subject to   cost <= limit

    by its Lagrangian: every unit that is worth more than mu times its cost stays, and the pruner finds by bisection
    the multiplier mu at which the budget is met (Everett, Operations Research 1963). Scores that do not add up to a
    loss, such as norms, cannot be weighed against costs: they are ranked as they are if all units cost the same;
    otherwise each layer keeps the same fraction.

    Args:
        per_cost: rank by score per cost; False: by the score alone, whatever a unit costs, as most papers do.
        normalise: divide each layer's scores by ``mean``, by ``max``, or leave them (``none``), so that layers of
            different scale can be compared.
        floor: fraction of a layer that always stays, against collapsed layers.
    """

    def __init__(self, normalise: str = "none", floor: float = 0.0, per_cost: bool = False) -> None:
        if normalise not in ("none", "mean", "max"):
            raise BadInput(f"allocation.normalise={normalise} is unknown; choose none, mean or max")
        if not 0 <= floor < 1:
            raise BadInput(
                f"allocation.floor={floor:g} is outside [0, 1); it is the fraction of a layer that always stays"
            )
        self.normalise = normalise
        self.floor = floor
        self.per_cost = per_cost

    def require_fitting(self, selection: Selection[Any]) -> None:
        """Also refuse a selection without scores or, with ``per_cost``, one without gains that add up."""
        super().require_fitting(selection)
        if not (selection.has_own("scores") or (self.per_cost and selection.additive and selection.has_own("gains"))):
            raise BadInput(selection.no_scores())

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """The best round(s M) of all M units by score, at least ``floor`` of each layer and one unit."""
        return self._ranking(layers, [self._scores(layer, selection) for layer in layers])

    def family_within(self, layers: Sequence[Seen], selection: Selection[Seen], spend: Spend) -> Family:
        """:meth:`family`, or with ``per_cost`` the counts that maximise kept score - mu x cost, for falling mu."""
        if not self.per_cost:
            return self.family(layers, selection)
        sizes = {layer.name: layer.size for layer in layers}
        full = spend(sizes)
        prices = [(full - spend(sizes | {name: 0})) / size for name, size in sizes.items()]
        if not selection.additive:
            alike = max(prices) - min(prices) <= SAME_PRICE * max(prices)
            return self.family(layers, selection) if alike else Uniform().family(layers, selection)
        gains = [self._scaled(selection.gains(layer)) for layer in layers]
        if all(isinstance(layer, EdgeLayer) for layer in layers):
            # all weights of a layer have the same cost, whatever else stays
            return self._ranking(layers, [gain / price for gain, price in zip(gains, prices, strict=True)])
        least = [max(1, round(self.floor * layer.size)) for layer in layers]
        return CoupledPrices([layer.name for layer in layers], [gain.cpu() for gain in gains], least, spend).family()

    def _ranking(self, layers: Sequence[Seen], scores: Sequence[Tensor]) -> Family:
        owner = torch.repeat_interleave(torch.arange(len(layers)), torch.tensor([len(score) for score in scores]))
        order = torch.sort(torch.cat(list(scores)), descending=True, stable=True).indices
        ranked = owner[order.cpu()]
        names = [layer.name for layer in layers]
        least = [max(1, round(self.floor * layer.size)) for layer in layers]

        def counts(s: float) -> Counts:
            kept = torch.bincount(ranked[: round(s * len(ranked))], minlength=len(names)).tolist()
            return {name: max(low, count) for name, low, count in zip(names, least, kept, strict=True)}

        return counts

    def _scores(self, layer: Seen, selection: Selection[Seen]) -> Tensor:
        scores = checked_scores(selection, layer)
        if isinstance(layer, EdgeLayer):
            scores = scores.masked_fill(~layer.live, -torch.inf)
        return self._scaled(scores.flatten())

    def _scaled(self, scores: Tensor) -> Tensor:
        if self.normalise == "none":
            return scores
        finite = scores[scores.isfinite()].abs()
        scale = finite.mean() if self.normalise == "mean" else finite.max()
        return scores / scale.clamp_min(torch.finfo(scores.dtype).tiny)


@runtime_checkable
class Explaining(Protocol):
    """A selection that knows how much of its loss any number of nodes explains."""

    def explained(self, layer: Any) -> Tensor:
        """(m + 1,) the ratio that the best k nodes explain, ascending from k = 0."""


class Information(Allocation):
    """Keeps the fewest nodes per layer that explain a common ratio alpha of what the selection's loss measures.

    Spectral pruning's first version fixed alpha_l per layer (Suzuki et al., arXiv 1808.08558v1); here one alpha serves
    all layers and is found from the budget.
    """

    def require_fitting(self, selection: Selection[Any]) -> None:
        """Also refuse a selection that does not know how much k nodes explain."""
        super().require_fitting(selection)
        if not isinstance(selection, Explaining):
            raise BadInput(
                "allocation=information needs a selection that knows how much k nodes explain, which "
                f"{type(selection).__name__} does not; use method=spectral or allocation=uniform"
            )

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """With alpha = s: the smallest k of each layer whose explained ratio reaches s."""
        self.require_fitting(selection)
        assert isinstance(selection, Explaining)
        curves = {layer.name: selection.explained(layer).cpu() for layer in layers}
        sizes = {layer.name: layer.size for layer in layers}

        def counts(s: float) -> Counts:
            if s >= 1:
                return dict(sizes)
            needed = {
                name: int(torch.searchsorted(curve, torch.tensor(s, dtype=curve.dtype)))
                for name, curve in curves.items()
            }
            return {name: min(max(1, k), sizes[name]) for name, k in needed.items()}

        return counts


class Explicit(Allocation):
    """Keeps counts that the user gives by layer, for instance a competitor's architecture. The budget is not consulted.

    Args:
        widths: units to keep for each layer path; layers not named keep everything.
    """

    def __init__(self, widths: Mapping[str, int] | None = None) -> None:
        if not widths:
            raise BadInput("allocation=explicit keeps what it is told: type for instance 'allocation.widths={fc1: 12}'")
        for name, width in widths.items():
            if not isinstance(width, int):
                raise BadInput(
                    f"allocation.widths has {name}: {width}, which is not a whole number; type for instance "
                    f"'allocation.widths={{{name}: 12}}'"
                )
        self.widths = dict(widths)

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """Return the given counts, whatever s is."""
        sizes = {layer.name: layer.size for layer in layers}
        for name, width in self.widths.items():
            if name not in sizes:
                raise BadInput(
                    f"allocation.widths names '{name}', which is not a prunable layer; choose from {', '.join(sizes)}"
                )
            if not 1 <= width <= sizes[name]:
                raise BadInput(
                    f"allocation.widths.{name}={width} is outside 1..{sizes[name]}, the units that this layer has"
                )
        counts = {name: self.widths.get(name, size) for name, size in sizes.items()}
        return lambda _s: counts


class Everything(Allocation):
    """Removes nothing and ignores the budget: for the control in which the unpruned network is trained further."""

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """Return all units of every layer, whatever s is."""
        sizes: Counts = {
            layer.name: int(layer.live.sum()) if isinstance(layer, EdgeLayer) else layer.size for layer in layers
        }
        return lambda _s: sizes


class Copied(Allocation):
    """Takes the counts of another cell's result: a control with the same layer sizes and another selection.

    Args:
        widths: units to keep for every layer path.
        donor: the method that the counts come from, for readers of the configuration.
        gradual: for schedules with several steps: counts fall from all units to ``widths`` as the budget does. If
            false, the first step goes to ``widths``, and the budget is ignored.
    """

    def __init__(self, widths: Mapping[str, int], donor: str | None = None, gradual: bool = False) -> None:
        self.widths = {name: int(width) for name, width in widths.items()}
        self.donor = donor
        self.partial = gradual

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """Return the copied counts; if ``gradual``, plus the fraction s of the other units."""
        sizes = {layer.name: layer.size for layer in layers}
        live = {layer.name: int(layer.live.sum()) if isinstance(layer, EdgeLayer) else layer.size for layer in layers}
        other = sorted(sizes.keys() ^ self.widths.keys())
        if other or any(self.widths[name] > live[name] for name in sizes):
            what = f"'{other[0]}' is not in both" if other else "a layer has fewer units than are to be kept"
            raise Skipped(f"the counts of {self.donor or 'the other cell'} do not fit this method's layers: {what}")
        if not self.partial:
            return lambda _s: dict(self.widths)
        return lambda s: {name: least + round(s * (live[name] - least)) for name, least in self.widths.items()}


class Rounded(Allocation):
    """Rounds another allocation's widths to multiples of a number, because odd widths can be slow.

    Widths are counted in output units: channels, neurons, and as many per attention head as its width. A layer may also
    keep everything. Our extension.

    Args:
        inner: the allocation.
        multiple: the number whose multiples are allowed, for instance 8 or 16.
    """

    def __init__(self, inner: Allocation, multiple: int) -> None:
        if multiple < 1:
            raise BadInput(
                f"allocation.round_to={multiple} is below 1; type allocation.round_to=8, or null for any width"
            )
        self.inner, self.multiple, self.partial = inner, multiple, inner.partial

    def require_fitting(self, selection: Selection[Any]) -> None:
        """Refuse what the inner allocation refuses, and selections of edges."""
        self.inner.require_fitting(selection)
        if selection.unit != "node":
            raise BadInput(self._for_nodes())

    def _for_nodes(self) -> str:
        return (
            f"allocation.round_to={self.multiple} rounds numbers of channels; this method removes single weights: "
            "type allocation.round_to=null"
        )

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """Return the inner counts, each rounded to the nearest allowed size (of two equally near ones, the larger)."""
        return self._rounded(layers, self.inner.family(layers, selection))

    def family_within(self, layers: Sequence[Seen], selection: Selection[Seen], spend: Spend) -> Family:
        """Do the same for an inner allocation that considers costs."""
        return self._rounded(layers, self.inner.family_within(layers, selection, spend))

    def _rounded(self, layers: Sequence[Seen], inner: Family) -> Family:
        allowed = {}
        for layer in layers:
            if not isinstance(layer, NodeLayer):
                raise BadInput(self._for_nodes())
            step = self.multiple // math.gcd(self.multiple, layer.group.width)
            allowed[layer.name] = sorted({*range(step, layer.size + 1, step), layer.size})
        self.steps = allowed

        def nearest(sizes: Sequence[int], count: int) -> int:
            return min(sizes, key=lambda size: (abs(size - count), -size))

        def counts(s: float) -> Counts:
            return {name: nearest(allowed[name], int(count)) for name, count in inner(s).items()}

        return counts


class ErdosRenyiKernel(Allocation):
    """Erdős–Rényi(-kernel) densities for edges (Mocanu et al., 2018; Evci et al., 2020).

    They are proportional to the sum of a layer's dimensions over their product, so that small layers stay denser.
    """

    units = frozenset({"edge"})

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """Densities min(1, c (sum of dimensions) / (their product)); c grows with s until every layer is full."""
        raw = {}
        for layer in layers:
            if not isinstance(layer, EdgeLayer):
                raise BadInput(
                    "allocation=erdos_renyi is defined for edges; use a method with unit edge, or allocation=uniform"
                )
            raw[layer.name] = sum(layer.shape) / layer.size
        sizes = {layer.name: layer.size for layer in layers}
        full = max(1 / density for density in raw.values())
        return lambda s: {name: max(1, round(min(1.0, s * full * raw[name]) * sizes[name])) for name in sizes}
