"""The counts that are worth most for their cost, against every allocation of small networks."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make

from methods.allocation import Global, Uniform
from methods.baselines.magnitude import MagnitudeSelection
from methods.baselines.thinet import ThiNetSelection
from methods.budgets.budget import Budget, EdgeCost, NodeCost
from methods.budgets.multiplier import CoupledPrices
from methods.compensation import LeastSquares
from methods.hessian.kronecker import KronOBD
from methods.hessian.obd import OBDSelection
from methods.layers.views import edge_layers, edge_views, node_views
from methods.network.graph import NetworkGraph
from methods.pruner import Pruner
from methods.spectral.selection import SpectralSelection

DATA = calibration()
sizes = st.lists(st.integers(1, 6), min_size=1, max_size=3)


def chain(widths, positions):
    """What a chain of layers costs, with four inputs and three outputs; the first positions count most."""

    def spend(counts):
        widths = [4, *counts.values(), 3]
        return float(sum(a * b * p for a, b, p in zip(widths, widths[1:], positions, strict=False)))

    return spend


@settings(max_examples=150, deadline=None)
@given(sizes, st.integers(0, 10_000), st.floats(-7, 0), st.lists(st.sampled_from([1, 4, 9]), min_size=4, max_size=4))
def test_the_best_counts_are_those_of_all_allocations(sizes, seed, exponent, positions):
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(m, generator=generator, dtype=torch.float64) for m in sizes]
    gains = [gain.cpu().pow(3).sort(descending=True).values for gain in drawn]  # counting is done on the CPU
    names, least = [str(number) for number in range(len(sizes))], [1] * len(sizes)
    prices = CoupledPrices(names, gains, least, chain(sizes, positions))
    every = list(itertools.product(*(range(1, m + 1) for m in sizes)))
    multiplier = 10**exponent
    best = prices.best(multiplier)
    worth = {k: sum(float(gain[:n].sum()) for gain, n in zip(gains, k, strict=True)) for k in every}
    spend = {k: chain(sizes, positions)(dict(zip(names, k, strict=True))) for k in every}
    assert prices.value(best, multiplier) == pytest.approx(max(worth[k] - multiplier * spend[k] for k in every))
    # so no allocation that costs no more is worth more
    found = tuple(best)
    assert worth[found] >= max(worth[k] for k in every if spend[k] <= spend[found]) - 1e-9


@pytest.mark.parametrize("name", ["chain", "convolution", "residual"])
@pytest.mark.parametrize("kind", ["compression", "speedup"])
def test_the_polynomial_is_the_networks_cost(name, kind):
    model = make(name)
    groups = NetworkGraph(model, DATA.inputs[:2]).groups
    cost = NodeCost(model, DATA.inputs[:2], groups)
    names = list(cost.sizes)
    gains = [torch.ones(size, dtype=torch.float64) for size in cost.sizes.values()]
    prices = CoupledPrices(names, gains, [1] * len(names), lambda counts: cost(counts).of(kind))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        counts = [int(torch.randint(1, size + 1, (1,), generator=generator)) for size in cost.sizes.values()]
        expected = sum(counts) - cost(dict(zip(names, counts, strict=True))).of(kind)
        assert prices.value(counts, 1.0) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["compression", "speedup"])
def test_edges_per_cost_are_the_best_of_their_cost(kind):
    """Kept: exactly the weights whose score per cost is above one threshold."""
    model = make("convolution")
    names = edge_layers(model, DATA.inputs[:2])
    layers = edge_views(model, names, {}, DATA, "0")
    cost = EdgeCost(model, DATA.inputs[:2], names)
    selection = OBDSelection()
    family = Global(per_cost=True).family_within(layers, selection, lambda counts: cost(counts).of(kind))
    scores = {layer.name: selection.scores(layer).flatten().sort(descending=True).values for layer in layers}
    for s in (0.1, 0.4, 0.8):
        counts = family(s)
        kept, left = [], []
        for name, values in scores.items():
            price = cost(cost.sizes).of(kind) - cost(cost.sizes | {name: cost.sizes[name] - 1}).of(kind)
            ratios = values / price
            kept.append(ratios[max(1, counts[name]) - 1] if counts[name] > 1 else torch.tensor(torch.inf))
            left += [ratios[counts[name]]] if counts[name] < len(ratios) else []
        assert min(kept) >= max(left) * (1 - 1e-12)


def test_norms_are_ranked_where_weights_cost_the_same_and_keep_equal_fractions_elsewhere():
    model = make("convolution")
    layers = edge_views(model, edge_layers(model, DATA.inputs[:2]), {}, DATA, "0")
    cost = EdgeCost(model, DATA.inputs[:2], [layer.name for layer in layers])
    norms = MagnitudeSelection("edge")
    raw, equal = Global().family(layers, norms), Uniform().family(layers, norms)
    for kind, expected in (("keep", raw), ("compression", raw), ("speedup", equal)):
        found = Global(per_cost=True).family_within(layers, norms, lambda counts, kind=kind: cost(counts).of(kind))
        assert all(found(s) == expected(s) for s in (0.1, 0.3, 0.8))
    assert raw(0.3) != equal(0.3)


@pytest.mark.parametrize("selection", [SpectralSelection(), ThiNetSelection(), KronOBD(), MagnitudeSelection()])
@pytest.mark.parametrize("kind", ["compression", "speedup"])
def test_nodes_per_cost_meet_the_budget(selection, kind):
    pruner = Pruner(selection, Global(per_cost=True), LeastSquares(ridge=1e-3, refit=True))
    pruned = pruner.prune(make("convolution"), DATA, Budget(kind, 2.0))
    assert pruned.achieved[kind] == pytest.approx(2.0, rel=0.1)


def test_gains_of_sets_add_up_to_what_all_nodes_are_worth():
    model = make("chain")
    [layer, *_] = node_views(model, NetworkGraph(model, DATA.inputs[:2]).groups, DATA, "0")
    weight, second = layer.outgoing[0][:, :, 0], layer.moments[0].second
    everything = float(((weight @ second) * weight).sum())  # the mean squared output without a bias
    for selection in (ThiNetSelection(), SpectralSelection()):
        assert float(selection.gains(layer).sum()) == pytest.approx(everything, rel=1e-4)


def test_layers_that_keep_less_than_a_hundredth_are_named():
    class Lopsided(MagnitudeSelection):
        def scores(self, layer):
            return super().scores(layer) * (1e-6 if layer.name == "1" else 1.0)

    pruned = Pruner(Lopsided("edge"), Global()).prune(make("chain"), DATA, Budget("compression", 8.0))
    assert any(line.startswith("1 keeps") for line in pruned.warnings)
    plain = Pruner(MagnitudeSelection("edge")).prune(make("chain"), DATA, Budget("compression", 8.0))
    assert plain.warnings == []
