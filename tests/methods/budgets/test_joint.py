"""Budgets of selections that spread the units themselves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import calibration, make

from methods.allocation import Explicit, Uniform
from methods.budgets.budget import Budget, Cost, EdgeCost
from methods.budgets.joint import choose_jointly, spread_of
from methods.hessian.cbs import CBSSelection
from methods.layers.views import edge_layers
from methods.pruner import Pruner

SIZES = {"early": 400, "late": 5000}
USES = {"early": 100, "late": 1}  # how often a weight of the layer is used


def cost(counts):
    return Cost(sum(counts.values()), sum(counts.values()), sum(USES[name] * kept for name, kept in counts.items()))


@given(st.floats(1.01, 50), st.floats(0.05, 1.0))
def test_a_cost_that_depends_on_where_the_units_lie_is_met_by_another_total(speedup, early):
    """``early``: which part of its fair share the layer whose weights are used often loses."""
    asked = []

    def choose(total):
        asked.append(total)
        removed = sum(SIZES.values()) - total
        gone = min(round(early * removed * SIZES["early"] / sum(SIZES.values())), SIZES["early"])
        gone = max(gone, removed - SIZES["late"])
        kept = {"early": SIZES["early"] - gone, "late": SIZES["late"] - (removed - gone)}
        return {name: torch.arange(SIZES[name]) < count for name, count in kept.items()}

    budget, dense = Budget("speedup", speedup), cost(SIZES)
    masks = choose_jointly(budget, choose, 2700, 5400, cost, dense)
    reached = cost({name: int(mask.sum()) for name, mask in masks.items()}).achieved(dense)["speedup"]
    step = USES["early"] * speedup / dense.speedup  # of one more weight that is used often, relatively
    assert abs(reached / speedup - 1) <= max(0.02, 1.1 * step) or len(asked) == 12
    assert len(asked) == len(set(asked)) <= 12


@pytest.mark.parametrize("kind,value", [("speedup", 2.0), ("speedup", 4.0), ("compression", 3.0), ("keep", 0.3)])
def test_cbs_meets_budgets_of_every_kind_on_a_convolutional_network(kind, value):
    model, data = make("convolution"), calibration(64)
    pruned = Pruner(CBSSelection(trials=3, passes=5), Uniform()).prune(model, data, Budget(kind, value))
    sizes = EdgeCost(model, data.inputs, edge_layers(model, data.inputs))
    kept = {name.removesuffix(".weight"): int(mask.sum()) for name, mask in pruned.masks.items()}
    assert sizes(kept).achieved(sizes(sizes.sizes))[kind] == pytest.approx(value, rel=0.01)
    assert pruned.note is None


def test_counts_that_the_allocation_fixes_stay_whatever_the_budget():
    model, data = make("convolution"), calibration(64)
    names = edge_layers(model, data.inputs)
    pruned = Pruner(CBSSelection(trials=2, passes=2), Explicit(dict.fromkeys(names, 20))).prune(
        model, data, Budget("speedup", 2.0)
    )
    assert sum(int(mask.sum()) for mask in pruned.masks.values()) == 20 * len(names)


def test_the_sum_is_all_that_spread_counts_say():
    assert spread_of({"a": 3, "b": 4}, 5) == {"a": 5, "b": 0}
