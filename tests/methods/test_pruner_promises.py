"""Edges of pruning that whole methods pass by: what the last unit is, what is scaled by what, and when steps end."""

import pytest
import torch
from networks import calibration, make
from torch import nn

from methods.allocation import Explicit, Global
from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget, output_positions
from methods.compensation import LeastSquares
from methods.errors import BadInput
from methods.layers.seen import NodeLayer
from methods.layers.views import pruned_before
from methods.network.graph import NetworkGraph
from methods.pruned import little_kept
from methods.pruner import Pruner
from methods.schedule import Iterative

DATA = calibration()


@pytest.mark.parametrize("width,fits", [(1, True), (20, True), (0, False), (21, False)])
def test_explicit_widths_are_from_one_to_all_units(width, fits):
    pruner = Pruner(MagnitudeSelection(), Explicit({"1": width}))
    if fits:
        pruned = pruner.prune(make("chain"), DATA, Budget("keep", 0.5))
        assert {row["name"]: row["kept"] for row in pruned.layers}["1"] == width
    else:
        with pytest.raises(BadInput, match=rf"allocation.widths.1={width} is outside 1..20"):
            pruner.prune(make("chain"), DATA, Budget("keep", 0.5))


@pytest.mark.parametrize("normalise", ["none", "mean", "max"])
def test_a_global_ranking_compares_scores_in_the_unit_that_is_named(normalise):
    scores = {"1": torch.arange(1.0, 21.0), "3": 100 * torch.linspace(0.1, 1.0, 16)}

    class Given(MagnitudeSelection):
        def scores(self, layer):
            own = scores.setdefault(layer.name, torch.linspace(0.1, 1.0, layer.size))
            return own[: layer.size].double()

    pruned = Pruner(Given(), Global(normalise=normalise)).prune(make("chain"), DATA, Budget("keep", 0.5))
    found = {name: scores[name][: row["units"]].double() for row in pruned.layers for name in [row["name"]]}
    unit = {"none": lambda own: 1.0, "mean": lambda own: own.mean(), "max": lambda own: own.max()}[normalise]
    scaled = {name: own / unit(own) for name, own in found.items()}
    kept = min(scaled[name][nodes].min() for name, nodes in pruned.kept.items())
    gone = [
        scaled[name][[i for i in range(len(scaled[name])) if i not in nodes]] for name, nodes in pruned.kept.items()
    ]
    assert all(bool((own <= kept + 1e-12).all()) for own in gone if len(own))


def test_positions_are_those_of_one_sample():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    found = output_positions(model, torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert found == {"0": 36, "2": 1}
    by_batch = nn.BatchNorm2d(4, track_running_stats=False)  # takes two samples to run
    found = output_positions(nn.Sequential(nn.Conv2d(1, 4, 3), by_batch, nn.Flatten(), nn.Linear(144, 5)), DATA.inputs)
    assert (found["0"], found["3"]) == (36, 1)


@pytest.mark.parametrize("kept,noted", [(9, True), (10, False), (11, False)])
def test_a_layer_that_keeps_under_a_hundredth_is_noted(kept, noted):
    assert bool(little_kept([{"name": "a", "units": 1000, "kept": kept}])) == noted


def test_weights_that_are_zero_already_are_no_units_and_empty_or_full_layers_are_not_masked():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(1.0)
        model[0].weight.zero_()
        model[1].weight.zero_()
        model[1].weight[0, 0] = 1.0  # a single weight is left
    found = pruned_before(model, ["0", "1", "2"])
    assert set(found) == {"1.weight"} and int(found["1.weight"].sum()) == 1


def test_every_step_of_a_schedule_is_taken_and_the_last_is_the_budget():
    trained = []
    pruner = Pruner(MagnitudeSelection(), schedule=Iterative(4, "linear"))
    pruned = pruner.prune(
        make("chain"), DATA, Budget("keep", 0.3), train=lambda model, masks, step: trained.append(step)
    )
    assert trained == [0, 1, 2] and len(pruned.steps) == 4
    assert [step["requested"] for step in pruned.steps] == pytest.approx([0.825, 0.65, 0.475, 0.3])


def test_a_step_that_is_within_the_budget_already_ends_no_schedule():
    trained = []
    pruner = Pruner(MagnitudeSelection(), Explicit({"1": 2, "3": 2}), schedule=Iterative(3, "linear"))
    pruned = pruner.prune(
        make("chain"), DATA, Budget("keep", 0.5), train=lambda model, masks, step: trained.append(step)
    )
    assert [step["keep"] < 0.5 for step in pruned.steps] == [True, True, True]
    assert trained == [0, 1] and pruned.steps[-1]["requested"] == 0.5


def test_bias_of_nodes_is_none_only_where_no_writer_has_one():
    for biased in (True, False):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6, bias=biased), nn.ReLU(), nn.Linear(6, 4))
        graph = NetworkGraph(model, DATA.inputs[:2])
        [group] = graph.groups
        layer = NodeLayer(group, model, DATA, None, None)
        if biased:
            assert torch.equal(layer.bias, model[1].bias.detach().double())
        else:
            assert layer.bias is None


def test_mean_gradients_of_nodes_are_those_of_the_mean_loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    seen = type(DATA)(DATA.inputs.flatten(1)[:, :64].double(), DATA.labels, DATA.indices)
    graph = NetworkGraph(model, seen.inputs[:2])
    [group] = graph.groups
    layer = NodeLayer(group, model, seen, None, None)
    loss = nn.functional.cross_entropy(model(seen.inputs), seen.labels)
    expected = torch.autograd.grad(loss, [model[1].weight, model[3].weight])
    assert torch.allclose(layer.incoming_gradient, expected[0], atol=1e-10)
    assert torch.allclose(layer.outgoing_gradient[0].squeeze(-1), expected[1], atol=1e-10)


def test_edges_refitted_on_the_pruned_network_differ_from_those_fitted_on_the_dense_one():
    torch.manual_seed(0)
    model = make("chain")
    refit, plain = (
        Pruner(MagnitudeSelection("edge"), compensation=LeastSquares(refit=refit)).prune(
            model, DATA, Budget("keep", 0.3)
        )
        for refit in (True, False)
    )
    last = [name for name in refit.masks][-1]
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in refit.masks.items())
    states = refit.model.state_dict(), plain.model.state_dict()
    assert not torch.allclose(states[0][last], states[1][last])

    def error(pruned):
        with torch.no_grad():
            return float((pruned.model(DATA.inputs) - model(DATA.inputs)).square().mean())

    assert error(refit) < error(plain)
