"""Spend a budget along sensitivity curves: find the sizes with the smallest sum of the layers' own losses.

What each layer alone does to the network's loss is measured at a grid of sizes (:mod:`methods.sensitivity.curves`), and
the increases are taken to add up over layers. With d_g(k) for group g at k units and C the budget's cost,

    min  sum_g d_g(k_g)   subject to   C(k) <= limit

is solved by its Lagrangian on each curve's convex hull, with the prices of units that depend on each other's sizes
(:mod:`methods.budgets.multiplier`). Where costs add up over layers (single weights), that is the greedy solution: the
unit that saves most per cost comes first, and every size it passes through is an optimum on the hulls. Our combination
of known parts; the curves are those of Li et al. 2017, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

from methods.allocation import Allocation
from methods.budgets.budget import Family
from methods.budgets.multiplier import CoupledPrices, Spend
from methods.compensation import Compensation
from methods.errors import BadInput
from methods.layers.statistics import Calibration
from methods.selection import Seen, Selection
from methods.sensitivity.curves import hull, measured


class Sensitivity(Allocation):
    """Finds the sizes with the smallest sum of the losses of pruning each layer alone.

    Args:
        compensation: of the method, so that the curves are those after its repair; None: none.
        sizes: how many sizes of each layer are tried.
        samples: calibration samples on which the loss is measured; all where there are fewer.
        floor: fraction of a layer that always stays.
    """

    units = frozenset({"node", "edge"})

    def __init__(
        self, compensation: Compensation | None = None, sizes: int = 8, samples: int = 500, floor: float = 0.0
    ) -> None:
        if sizes < 1 or samples < 1:
            raise BadInput(
                f"allocation.sizes={sizes} and allocation.samples={samples}: expected 1 or more of each; "
                "type allocation.sizes=8 allocation.samples=500"
            )
        if not 0 <= floor < 1:
            raise BadInput(
                f"allocation.floor={floor:g} is outside [0, 1); it is the fraction of a layer that always stays"
            )
        self.compensation = compensation or Compensation()
        self.sizes, self.samples, self.floor = sizes, samples, floor

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """As :meth:`family_within`, where every unit costs the same."""
        return self.family_within(layers, selection, lambda counts: float(sum(int(count) for count in counts.values())))

    def family_within(self, layers: Sequence[Seen], selection: Selection[Seen], spend: Spend) -> Family:
        """Counts that are worth a common multiple of their cost, on the hulls of the curves."""
        curves = measured(layers, selection, self.compensation, first(layers[0].calibration, self.samples), self.sizes)
        gains = [-hull(curve.sizes, curve.losses).diff() for curve in curves]
        least = [max(1, round(self.floor * curve.sizes[-1])) for curve in curves]
        return CoupledPrices([curve.name for curve in curves], gains, least, spend).family()


def first(samples: Calibration, count: int) -> Calibration:
    """The first ``count`` of some calibration samples."""
    return Calibration(samples.inputs[:count], samples.labels[:count], None, samples.seed, samples.batch_size)
