"""Schedules, for any number of steps and any budget."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.budgets.budget import Budget
from methods.errors import BadInput
from methods.schedule import SHAPES, Iterative, Schedule

BUDGETS = st.one_of(
    st.builds(Budget, st.just("keep"), st.floats(0.01, 0.99)),
    st.builds(Budget, st.sampled_from(["compression", "speedup"]), st.floats(1.01, 100)),
)


@given(st.integers(1, 40), st.sampled_from(SHAPES), BUDGETS)
def test_what_remains_falls_from_step_to_step_and_ends_at_the_request(steps, shape, budget):
    targets = Iterative(steps, shape).targets(budget)
    remaining = [1.0, *(target.remaining for target in targets)]
    assert len(targets) == steps and targets[-1] == budget
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(remaining))
    assert remaining[1] < 1
    assert {target.kind for target in targets} == {budget.kind}


@given(st.integers(2, 40), BUDGETS)
def test_exponential_steps_remove_the_same_share_and_cubic_ones_the_most_at_first(steps, budget):
    shares = [target.remaining for target in Iterative(steps, "exponential").targets(budget)]
    falls = [after / before for before, after in zip([1.0, *shares], shares, strict=False)]
    assert falls == pytest.approx([budget.remaining ** (1 / steps)] * steps)
    cubic, linear = (Iterative(steps, shape).targets(budget) for shape in ("cubic", "linear"))
    assert all(one.remaining < two.remaining for one, two in zip(cubic[:-1], linear[:-1], strict=True))


@given(BUDGETS)
def test_one_step_is_the_budget_itself(budget):
    assert Schedule().targets(budget) == [budget]
    assert [Iterative(1, shape).targets(budget) for shape in SHAPES] == [[budget]] * len(SHAPES)


@given(st.one_of(st.integers(-100, 0), st.integers(10_001, 10**9), st.floats(0.1, 50).filter(lambda x: x != int(x))))
def test_steps_that_are_none_are_refused(steps):
    with pytest.raises(BadInput, match=r"schedule\.steps"):
        Iterative(steps)
