"""OWL's densities against its formula; SPDY's solver against enumeration, its search against where it began."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make

from methods.allocation import Explicit
from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.errors import BadInput
from methods.layers.views import edge_layers, edge_views
from methods.pruner import Pruner
from methods.sensitivity.alone import loss_and_accuracy
from methods.sensitivity.knapsack import cheapest
from methods.sensitivity.owl import OWL, density_shifts, outlier_ratio
from methods.sensitivity.spdy import SPDY, Stitched
from methods.unstructured.wanda import WandaSelection

DATA = calibration(48)
EDGES = MagnitudeSelection(unit="edge")


def test_an_outlier_lies_above_a_multiple_of_the_mean():
    scores = torch.tensor([1.0, 1.0, 1.0, 1.0, 16.0])  # mean 4
    assert outlier_ratio(scores, 3.9) == 0.2
    assert outlier_ratio(scores, 4.0) == 0.0  # not above, but at it


def test_densities_follow_the_authors_arithmetic():
    """By hand: ratios 1, 2, 5 scaled to 0, 0.04, 0.16 for lambda = 0.08, less their mean 0.0666..."""
    assert density_shifts([1.0, 2.0, 5.0], 0.08) == pytest.approx([-0.2 / 3, 0.04 - 0.2 / 3, 0.16 - 0.2 / 3])
    assert density_shifts([3.0, 3.0], 0.08) == [0.0, 0.0]


def test_owl_gives_each_layer_the_networks_density_and_its_own_shift():
    found = Pruner(WandaSelection(), OWL(M=2.0, lam=0.1)).prune(make("wide"), DATA, Budget("keep", 0.4))
    model = make("wide")
    layers = edge_views(model, edge_layers(model, DATA.inputs[:2]), {}, DATA, "s")
    ratios = []
    for layer in layers:
        scores = layer.weight.abs() * layer.moments.second.diagonal().sqrt()
        ratios.append(float((scores > 2 * scores.mean()).double().mean()))
    shifts = density_shifts(ratios, 0.1)
    densities = [layer["kept"] / layer["units"] for layer in found.layers]
    own = [density - shift for density, shift in zip(densities, shifts, strict=True)]
    assert max(own) - min(own) < 0.02  # one density of the network, up to whole weights
    assert found.achieved["keep"] == pytest.approx(0.4, rel=0.01) and max(densities) - min(densities) > 0.15


costs = st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=4)


@settings(deadline=None, max_examples=150)
@given(costs=costs, limit=st.integers(1, 30), seed=st.integers(0, 10**6))
def test_the_solver_finds_the_least_error_that_fits(costs, limit, seed):
    errors = np.random.default_rng(seed).uniform(0, 1, (len(costs), 3)).tolist()
    found = cheapest(errors, costs, limit, buckets=limit)  # a bucket is one unit: nothing is rounded
    fitting = {
        sum(error[i] for error, i in zip(errors, choice, strict=True)): choice
        for choice in itertools.product(range(3), repeat=len(costs))
        if sum(cost[i] for cost, i in zip(costs, choice, strict=True)) <= limit
    }
    assert (found is None) == (not fitting)
    if found is not None:
        assert sum(cost[i] for cost, i in zip(costs, found, strict=True)) <= limit
        assert sum(e[i] for e, i in zip(errors, found, strict=True)) == pytest.approx(min(fitting))


def test_spdy_meets_budgets_and_no_worse_than_where_its_search_began():
    budget, losses = Budget("compression", 3.0), {}
    for trials, turns in ((0, 0), (1, 0), (25, 20)):
        allocation = SPDY(LeastSquares(1e-3), levels=8, trials=trials, turns=turns, samples=48)
        found = Pruner(EDGES, allocation, LeastSquares(1e-3, refit=False)).prune(make("convolution"), DATA, budget)
        assert found.achieved["compression"] == pytest.approx(3.0, rel=0.01)
        losses[trials] = loss_and_accuracy(found.model, DATA)[0]
    assert losses[25] <= losses[1] + 0.02  # single weights fill what is left of the budget after the search


def test_what_the_search_measures_is_the_network_with_these_sizes():
    """The loss that decides is that of a network whose layers are each pruned and repaired alone."""
    seen = {}

    class Watched(SPDY):
        def searched(self, layers, selection, plan, room):
            network = Stitched(layers, selection, self.compensation, plan, DATA)
            numbers = [2, 1, 3]
            seen["loss"] = network.loss(numbers)
            seen["sizes"] = {n: own[i] for n, own, i in zip(plan.names, plan.sizes, numbers, strict=True)}
            seen["again"] = network.loss([0, 0, 0])
            return [1.0] * len(layers)

    repair = LeastSquares(1e-3, refit=False)
    Pruner(EDGES, Watched(repair, levels=4, samples=48), repair).prune(make("chain"), DATA, Budget("keep", 0.3))
    expected = Pruner(EDGES, Explicit(seen["sizes"]), repair).prune(make("chain"), DATA, Budget("keep", 0.3)).model
    assert seen["loss"] == pytest.approx(loss_and_accuracy(expected, DATA)[0], rel=1e-4)
    assert seen["again"] == pytest.approx(loss_and_accuracy(make("chain"), DATA)[0], rel=1e-5)


def test_the_seed_of_the_calibration_alone_decides():
    def kept():
        allocation = SPDY(levels=6, trials=5, turns=5, samples=48)
        found = Pruner(EDGES, allocation).prune(make("chain"), DATA, Budget("keep", 0.3))
        return [layer["kept"] for layer in found.layers]

    assert kept() == kept()


@pytest.mark.parametrize("allocation", [OWL(), SPDY(trials=1)])
def test_nodes_are_refused(allocation):
    with pytest.raises(BadInput, match="edge units"):
        Pruner(MagnitudeSelection(), allocation).prune(make("chain"), DATA, Budget("keep", 0.5))


def test_options_that_cannot_be_are_refused():
    for make_one in (lambda: OWL(M=0), lambda: OWL(lam=0.5), lambda: SPDY(levels=0), lambda: SPDY(trials=-1)):
        with pytest.raises(BadInput, match=r"allocation\."):
            make_one()
