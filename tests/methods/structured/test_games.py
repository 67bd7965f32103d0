"""Sampled Shapley and Banzhaf values against sums over all coalitions."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make

from methods.errors import BadInput
from methods.layers.gradients import sample_losses
from methods.layers.views import node_views
from methods.network.graph import NetworkGraph, gated
from methods.structured.games import GameSelection, banzhaf, shapley


def table(seed, players):
    """A game given by a random worth of each coalition."""
    worth = torch.randn(2**players, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda coalition: float(worth[sum(2**i for i in coalition.nonzero().flatten().tolist())])


def exact(value, players, weight):
    """For each player the weighted sum of its marginal worth over all coalitions of the others."""
    found = []
    for player in range(players):
        others = [i for i in range(players) if i != player]
        total = 0.0
        for size in range(players):
            for chosen in itertools.combinations(others, size):
                without = torch.zeros(players, dtype=torch.bool)
                without[list(chosen)] = True
                joined = without.clone()
                joined[player] = True
                total += weight(size) * (value(joined) - value(without))
        found.append(total)
    return torch.tensor(found, dtype=torch.float64)


def of_shapley(players):
    return lambda size: math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)


@pytest.mark.verifies("shapley", by="brute force")
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), players=st.integers(1, 4))
def test_the_mean_over_all_orders_is_the_shapley_value(seed, players):
    value = table(seed, players)
    orders = [shapley(value, torch.tensor(order)) for order in itertools.permutations(range(players))]
    assert torch.allclose(torch.stack(orders).mean(0), exact(value, players, of_shapley(players)).cpu())
    everyone, nobody = torch.ones(players, dtype=torch.bool), torch.zeros(players, dtype=torch.bool)
    for order in orders:
        assert float(order.sum()) == pytest.approx(value(everyone) - value(nobody))


@pytest.mark.verifies("banzhaf", by="brute force")
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), players=st.integers(1, 5))
def test_the_mean_over_all_coalitions_is_the_banzhaf_value(seed, players):
    value = table(seed, players)
    drawn = [banzhaf(value, torch.tensor(bits)) for bits in itertools.product([False, True], repeat=players)]
    wanted = exact(value, players, lambda _size: 2.0 ** (1 - players))
    assert torch.allclose(torch.stack(drawn).mean(0), wanted)


@pytest.mark.parametrize("kind", ["shapley", "banzhaf"])
def test_players_that_only_add_up_get_what_they_add_from_one_draw(kind):
    worth = torch.tensor([3.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def value(coalition):
        return float(worth[coalition].sum())

    if kind == "shapley":
        assert shapley(value, torch.randperm(4, generator=generator)).tolist() == pytest.approx(worth.tolist())
    else:
        drawn = [banzhaf(value, torch.rand(4, generator=generator) < 0.5) for _ in range(4000)]
        assert torch.stack(drawn).mean(0).tolist() == pytest.approx(worth.tolist(), abs=0.2)


def test_shapley_values_of_a_layer_add_up_to_what_it_is_worth_on_the_loss():
    model, data = make("convolution"), calibration(40)
    [first, *_] = node_views(model, NetworkGraph(model, data.inputs[:2]).groups, data, "test")
    scores = GameSelection(draws=3, batch=40).scores(first)
    with torch.no_grad():
        dense = float(sample_losses(model(data.inputs), data.labels).mean())
        with gated(model, [first.group], {first.name: torch.tensor([], dtype=torch.int64)}):
            empty = float(sample_losses(model(data.inputs), data.labels).mean())
    assert float(scores.sum()) == pytest.approx(empty - dense, abs=1e-5)


def test_a_node_that_nothing_depends_on_is_worth_nothing():
    model, data = make("chain"), calibration(40)
    with torch.no_grad():
        model[3].weight[:, 5] = 0
    [first, _] = node_views(model, NetworkGraph(model, data.inputs[:2]).groups, data, "test")
    scores = GameSelection(draws=2, batch=20).scores(first)
    assert scores[5] == 0 and int((scores == 0).sum()) == 1


@pytest.mark.parametrize("options", [{"value": "nucleolus"}, {"draws": 0}, {"batch": 0}])
def test_what_cannot_be_drawn_is_refused(options):
    with pytest.raises(BadInput, match=f"selection.{'draws' if 'value' not in options else 'value'}"):
        GameSelection(**options)
