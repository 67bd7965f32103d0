"""Check what a pruning step requires of its parts, and say which requirements are not met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from methods.allocation import Allocation, Uniform
from methods.budgets.budget import Budget, Cost, Count, CountCost, Counts
from methods.budgets.multiplier import Spend
from methods.compensation import Compensation
from methods.errors import BadInput, Unreachable
from methods.selection import AnySelection, Seen, Selection, require_exact

RESTRUCTURED = ("eigen", "block", "exact", "rank")  # units of selections that build the smaller network themselves
MOST_REASONS, MOST_NAMES = 6, 8  # that an error names


@dataclass(frozen=True)
class Parts:
    """The parts of a pruning step: how many units stay, which ones, and how these make up for the others."""

    selection: AnySelection
    allocation: Allocation
    compensation: Compensation


@dataclass(frozen=True)
class Spending:
    """What the budget counts for given numbers of units, and its limit."""

    cost: CountCost
    kind: str
    limit: float

    def __call__(self, counts: Counts) -> float:
        """Units, parameters or MACs of the whole network."""
        return self.cost(counts).of(self.kind)


def spend(cost: CountCost, target: Budget, dense: Cost) -> Spend:
    """Return what the budget counts for given numbers of units; latency is assumed to be proportional to MACs."""
    kind = "speedup" if target.measured else target.kind
    return Spending(cost, kind, target.remaining * dense.of(kind))


@contextmanager
def naming(left_alone: Mapping[str, str]) -> Iterator[None]:
    """Add what was left alone to the message that a budget cannot be reached: it is often the cause."""
    try:
        yield
    except Unreachable as error:
        if not left_alone:
            raise
        hint = f"left alone: {told(left_alone)}; see python -m benchmarks.groups"
        raise Unreachable(f"{error}\n{hint}") from None


def told(left_alone: Mapping[str, str]) -> str:
    """Say in one line why layers were left alone, layers with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in left_alone.items():
        by_reason.setdefault(reason, []).append(path)
    parts = []
    for reason, (first, *others) in list(by_reason.items())[:MOST_REASONS]:
        names = ", ".join(others[:MOST_NAMES]) + (f" and {len(others) - MOST_NAMES} more" * (len(others) > MOST_NAMES))
        parts.append(f"{first} ({reason})" + (f", as are {names}" if others else ""))
    rest = sum(len(paths) for paths in list(by_reason.values())[MOST_REASONS:])
    return "; ".join(parts) + (f"; and {rest} more" if rest else "")


def exactly(
    selection: Selection[Seen], layers: Sequence[Seen], kept: Mapping[str, Tensor], counts: Mapping[str, Count]
) -> dict[str, Tensor]:
    """Return what the selection kept in every layer, checked against ``counts`` where that names the layer."""
    if missing := [layer.name for layer in layers if layer.name not in kept]:
        raise BadInput(
            f"{type(selection).__name__}.select_all has nothing for layer {missing[0]}; expected every layer"
        )
    return {layer.name: require_exact(selection, layer, kept[layer.name], counts.get(layer.name)) for layer in layers}


def require_fitting(selection: AnySelection, allocation: Allocation, compensation: Compensation) -> None:
    """Raise :class:`BadInput` for parts that could not work, or would silently do nothing, together."""
    unit = selection.unit
    if unit not in ("node", "edge", *RESTRUCTURED):
        raise BadInput(f"selection.unit={unit} is unknown; choose node or edge")
    if unit not in compensation.units:
        able = " and ".join(sorted(compensation.units - {*RESTRUCTURED}))
        usable = "compensation=none" if unit in RESTRUCTURED else "compensation=least_squares or compensation=none"
        raise BadInput(
            f"{type(compensation).__name__} repairs what is left of {able} units, but {type(selection).__name__} "
            f"removes {unit} units, so it would do nothing\ntype {usable}"
        )
    if unit in RESTRUCTURED and type(allocation) is not Uniform:
        whats = {"eigen": "directions of all layers", "block": "blocks", "rank": "singular values of all layers"}
        what = whats.get(unit, "units")
        raise BadInput(
            f"{type(selection).__name__} ranks the {what} by itself, so that "
            f"{type(allocation).__name__} would do nothing\ntype allocation=uniform"
        )
    allocation.require_fitting(selection)
