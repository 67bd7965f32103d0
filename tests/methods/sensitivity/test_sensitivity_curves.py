"""One layer pruned alone, the curves of it, and a budget spent along them, against enumeration."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, calibration, make

from methods.allocation import Explicit
from methods.baselines.magnitude import MagnitudeSelection
from methods.baselines.random import RandomSelection
from methods.budgets.budget import Budget, EdgeCost, NodeCost
from methods.compensation import Compensation, LeastSquares
from methods.errors import BadInput
from methods.hessian.obs import OBSCompensation, OBSSelection
from methods.layers.statistics import Calibration
from methods.layers.views import edge_layers, edge_views, node_views
from methods.network.graph import NetworkGraph
from methods.pruner import Pruner
from methods.sensitivity.allocation import Sensitivity
from methods.sensitivity.alone import chosen, kept_alone, loss_and_accuracy
from methods.sensitivity.curves import grid, hull, measured

DATA = calibration(48)


def nodes(name, samples=DATA):
    model = make(name)
    return node_views(model, NetworkGraph(model, DATA.inputs[:2], residual=True).groups, samples, "s")


def edges(name, samples=DATA):
    model = make(name)
    return edge_views(model, edge_layers(model, DATA.inputs[:2]), {}, samples, "s")


def own_outputs(model):
    """Samples on which the network is perfect as it is, so that nothing but loss comes from pruning it."""
    with torch.no_grad():
        return Calibration(DATA.inputs, model(DATA.inputs))


def outputs(model):
    with torch.no_grad():
        return model(DATA.inputs)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("compensation", [Compensation(), LeastSquares(1e-3), LeastSquares(1e-3, intercept=True)])
def test_a_layer_alone_is_what_the_pruner_makes_of_that_layer_alone(name, compensation):
    layers, selection = nodes(name), MagnitudeSelection()
    before = copy.deepcopy(layers[0].model.state_dict())
    for layer in layers:
        k = max(1, layer.size // 2)
        with kept_alone(layer, chosen(selection, layer, k), compensation, selection) as model:
            alone = outputs(model)
        pruner = Pruner(selection, Explicit({layer.name: k}), compensation, prune_residual=True)
        theirs = outputs(pruner.prune(make(name), DATA, Budget("keep", 0.5)).model)
        assert torch.allclose(alone, theirs, atol=1e-4)
        assert not torch.allclose(alone, outputs(make(name)), atol=1e-4)
    after = layers[0].model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("selection", "compensation"),
    [
        (MagnitudeSelection(unit="edge"), Compensation()),
        (MagnitudeSelection(unit="edge"), LeastSquares(1e-3, refit=True)),
        (OBSSelection(), OBSCompensation()),
    ],
)
def test_single_weights_alone_are_what_the_pruner_makes_of_them(selection, compensation):
    layers = edges("chain")
    before = copy.deepcopy(layers[0].model.state_dict())
    for layer in layers:
        with kept_alone(layer, chosen(selection, layer, layer.size // 3), compensation, selection) as model:
            alone = outputs(model)
        pruner = Pruner(selection, Explicit({layer.name: layer.size // 3}), compensation)
        theirs = outputs(pruner.prune(make("chain"), DATA, Budget("keep", 0.5)).model)
        assert torch.allclose(alone, theirs, atol=1e-4)
    after = layers[0].model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_looking_changes_no_later_choice():
    layer, other, selection = nodes("chain")[0], nodes("chain")[0], RandomSelection()
    for k in (3, 7, 12):
        chosen(selection, layer, k)
    assert torch.equal(selection.select(layer, 9), selection.select(other, 9))


def test_curves_are_what_the_network_loses():
    layers, selection = nodes("convolution"), MagnitudeSelection()
    curves = measured(layers, selection, Compensation(), DATA, 3)
    whole = loss_and_accuracy(make("convolution"), DATA)
    assert [curve.name for curve in curves] == [layer.name for layer in layers]
    for curve, layer in zip(curves, layers, strict=True):
        assert list(curve.sizes) == [*grid(layer, 3), layer.size]
        assert (curve.losses[-1], curve.accuracies[-1]) == whole
        pruner = Pruner(selection, Explicit({curve.name: curve.sizes[0]}))
        pruned = pruner.prune(make("convolution"), DATA, Budget("keep", 0.5)).model
        loss, accuracy = loss_and_accuracy(pruned, DATA)
        assert curve.losses[0] == pytest.approx(loss, rel=1e-4) and curve.accuracies[0] == accuracy


def test_the_loss_is_cross_entropy_and_half_the_squared_error():
    model = make("chain")
    expected = torch.nn.functional.cross_entropy(outputs(model), DATA.labels).item()
    right = (outputs(model).argmax(1) == DATA.labels).double().mean().item()
    assert loss_and_accuracy(model, DATA) == (pytest.approx(expected, rel=1e-5), right)
    targets = outputs(make("chain", seed=1))
    loss, accuracy = loss_and_accuracy(model, type(DATA)(DATA.inputs, targets))
    assert accuracy is None
    assert loss == pytest.approx(0.5 * (outputs(model) - targets).square().sum(1).mean().item(), rel=1e-5)


points = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=8)


@settings(deadline=None, max_examples=100)
@given(damages=points, seed=st.integers(0, 1000))
def test_the_hull_is_the_largest_convex_function_below_the_points(damages, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = sorted((torch.randperm(40, generator=generator)[: len(damages)] + 1).tolist())
    found = hull(sizes, damages)
    inside = found[sizes[0] :]
    assert len(found) == sizes[-1] + 1
    assert all(inside[size - sizes[0]] <= damage + 1e-9 for size, damage in zip(sizes, damages, strict=True))
    assert bool((found.diff().diff() >= -1e-9).all())
    # below no point there is room: each value lies on the line between two of the points
    for size in range(sizes[0], sizes[-1] + 1):
        chords = [
            low + (high - low) * (size - left) / (right - left) if right > left else low
            for (left, low), (right, high) in itertools.product(zip(sizes, damages, strict=True), repeat=2)
            if left <= size <= right
        ]
        assert float(found[size]) == pytest.approx(min(chords), abs=1e-6)


def spent(layers, selection, spend, sizes=4):
    """The family, its curves as tables of damage by size, and the members that differ."""
    allocation = Sensitivity(sizes=sizes, samples=48)
    family = allocation.family_within(layers, selection, spend)
    curves = measured(layers, selection, Compensation(), layers[0].calibration, sizes)
    damages = {curve.name: hull(curve.sizes, curve.losses) for curve in curves}
    members = {tuple(family(step / 400).items()) for step in range(400)}
    return damages, [dict(member) for member in members]


def test_no_other_counts_of_nodes_cost_no_more_and_lose_less():
    layers = nodes("chain", own_outputs(make("chain")))
    cost = NodeCost(layers[0].model, DATA.inputs[:2], [layer.group for layer in layers])
    damages, members = spent(layers, MagnitudeSelection(), lambda counts: cost(counts).of("compression"))
    every = [
        dict(zip(damages, sizes, strict=True))
        for sizes in itertools.product(*(range(1, layer.size + 1) for layer in layers))
    ]
    price = [cost(counts).of("compression") for counts in every]
    loss = [sum(float(damages[name][k]) for name, k in counts.items()) for counts in every]
    assert len(members) > 5
    for counts in members:
        own = sum(float(damages[name][k]) for name, k in counts.items())
        best = min(
            each for each, own_price in zip(loss, price, strict=True) if own_price <= cost(counts).of("compression")
        )
        assert own <= best + 1e-9


def test_no_other_counts_of_weights_cost_no_more_and_lose_less():
    layers = edges("chain", own_outputs(make("chain")))[1:]  # 20 x 16 and 16 x 4: few enough to enumerate
    cost = EdgeCost(layers[0].model, DATA.inputs[:2], [layer.name for layer in layers])
    damages, members = spent(layers, MagnitudeSelection(unit="edge"), lambda counts: cost(counts).of("keep"))
    first, second = (damages[layer.name] for layer in layers)
    total = first[1:, None] + second[1:]
    weights = (torch.arange(1, len(first))[:, None] + torch.arange(1, len(second))).cpu()  # as the tables are
    assert len(members) > 3
    for counts in members:
        own = sum(float(damages[name][k]) for name, k in counts.items())
        assert own <= float(total[weights <= sum(counts.values())].min()) + 1e-9


@pytest.mark.parametrize("kind", ["keep", "compression", "speedup"])
def test_budgets_are_met(kind):
    budget = Budget(kind, 0.6 if kind == "keep" else 1.7)
    found = Pruner(
        MagnitudeSelection(), Sensitivity(LeastSquares(1e-3), sizes=4, samples=48), LeastSquares(1e-3)
    ).prune(make("wide"), DATA, budget)
    assert found.achieved[kind] == pytest.approx(budget.value, rel=0.01)


def test_the_layer_that_loses_nothing_goes_first():
    model = make("chain")
    with torch.no_grad():
        model[1].weight[10:] = 0  # half of the first layer's nodes are always 0
        model[1].bias[10:] = 0
    pruner = Pruner(MagnitudeSelection(), Sensitivity(sizes=9, samples=48))
    found = pruner.prune(model, own_outputs(model), Budget("keep", 26 / 36))
    assert {layer["name"]: layer["kept"] for layer in found.layers} == {"1": 10, "3": 16}


def test_what_cannot_be_is_refused():
    for options in ({"sizes": 0}, {"samples": 0}, {"floor": 1.0}):
        with pytest.raises(BadInput, match="allocation"):
            Sensitivity(**options)
