"""How far off a size may be before it is noted or refused: one hundredth, as docs and records say."""

import pytest

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget, Cost
from methods.budgets.meeting import shortfall
from methods.errors import BadInput

DENSE = Cost(100, 1000.0, 8000.0)


@pytest.mark.parametrize(
    ("achieved", "noted"), [(2.0, False), (1.985, False), (2.015, False), (1.97, True), (2.03, True)]
)
@pytest.mark.parametrize("kind", ["compression", "speedup"])
def test_a_size_that_is_more_than_one_hundredth_off_is_noted(kind, achieved, noted):
    cost = Cost(50, DENSE.compression / achieved, DENSE.speedup / achieved)
    assert (shortfall(Budget(kind, 2.0), cost, DENSE, "off") is not None) == noted


@pytest.mark.parametrize(
    ("keep", "refused"), [(0.5, False), (0.492, False), (0.508, False), (0.485, True), (0.515, True)]
)
def test_a_selection_of_a_fixed_share_takes_a_budget_that_is_within_one_hundredth_of_it(keep, refused):
    selection = MagnitudeSelection()
    selection.share = 0.5
    if refused:
        with pytest.raises(BadInput, match=r"keeps 0.5 of every layer.*asks for 0.(485|515)"):
            selection.require_budget(Budget("keep", keep))
    else:
        selection.require_budget(Budget("keep", keep))
