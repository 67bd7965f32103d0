"""torch-pruning's importances on our groups: against our own scores and closed forms, and where they do not apply."""

import pytest
import torch
import torch_pruning
from networks import NETWORKS, calibration, make
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.baselines.torch_pruning import IMPORTANCES, TorchPruningSelection
from methods.errors import BadInput, Skipped
from methods.layers.gradients import sample_losses
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration
from methods.network.graph import NetworkGraph, NodeGroup, Reader
from methods.seeds import stream

DATA = calibration(24)


def layers_of(model, data=DATA, seed=0, residual=True):
    groups, shared = NetworkGraph(model, data.inputs[:2], residual=residual).groups, {}
    return [NodeLayer(g, model, data, stream(seed, g.name), lambda: [], shared) for g in groups]


def single(model, name, reader, size, data):
    """A layer of nodes as the caller says, whatever our own search for groups thinks of the network."""
    units = torch.arange(size)[:, None]
    group = NodeGroup(name, size, (name,), (Reader(reader, units, False),), (), (units,), ())
    return NodeLayer(group, model, data, stream(0, name), lambda: [])


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("importance", ["GroupMagnitudeImportance", "MagnitudeImportance"])
@pytest.mark.parametrize("name", NETWORKS)
def test_our_magnitude_is_theirs_of_the_layers_that_write_the_group(name, importance, norm):
    """Their first layer's norm to the power p is ours where one layer writes; with several, ours is the larger."""
    arguments = {"p": norm, "group_reduction": "first", "normalizer": None}
    theirs, ours = TorchPruningSelection(importance, arguments), MagnitudeSelection(norm=norm)
    layers = layers_of(make(name))
    assert layers
    for layer in layers:
        found, own = theirs.scores(layer), ours.scores(layer) ** norm
        if len(layer.writers) == 1:
            torch.testing.assert_close(found, own, rtol=1e-5, atol=0)
        else:
            assert bool((found < own).all())


@pytest.mark.verifies("torch_pruning", by="closed form")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_sum_over_a_group_is_that_of_all_weights_of_a_node(name):
    selection = TorchPruningSelection(arguments={"p": 1, "group_reduction": "sum", "normalizer": None})
    for layer in layers_of(make(name)):
        total = layer.incoming.abs().sum(1) + sum(weight.abs().sum((0, 2)) for weight in layer.outgoing)
        total = total + sum(scales.abs().sum(1) for scales in layer.scales.values())
        torch.testing.assert_close(selection.scores(layer), total, rtol=1e-5, atol=0)


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("name", ["batch_norm", "chain"])
def test_every_importance_gives_one_finite_score_per_node(name, importance):
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for layer in layers_of(model):
        selection = TorchPruningSelection(importance)
        if importance == "BNScaleImportance" and name == "chain":
            with pytest.raises(Skipped, match=rf"^{layer.name}: BNScaleImportance finds nothing"):
                selection.scores(layer)
            continue
        scores = selection.scores(layer)
        assert scores.shape == (layer.size,) and scores.dtype == torch.float64 and bool(scores.isfinite().all())
        assert len(scores.unique()) > 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("importance", ["GroupTaylorImportance", "GroupHessianImportance"])
def test_gradients_are_those_of_the_calibration_samples(importance):
    """|w g| of the mean loss, and w^2 h / 2 of squared single-sample gradients up to their constant factor."""
    model = make("chain")
    arguments = {"group_reduction": "first", "normalizer": None}
    for layer in layers_of(model.requires_grad_(False)):  # frozen layers count, too
        weight = model.get_submodule(layer.name).weight.requires_grad_(True)
        losses = sample_losses(model(DATA.inputs), DATA.labels)
        each = torch.stack([torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses]).double()
        weight.requires_grad_(False)
        taylor = (weight.double() * each.mean(0)).abs().sum(1)
        hessian = (weight.double().square() * each.square().mean(0)).sum(1)
        scores = TorchPruningSelection(importance, arguments).scores(layer)
        wanted = taylor if "Taylor" in importance else hessian
        torch.testing.assert_close(scores / scores.sum(), wanted / wanted.sum(), rtol=1e-4, atol=0)


def test_their_hessian_forgets_all_samples_but_the_last():
    """Why it is handed the root of the mean square: the day this fails, the module's text is out of date."""
    layer, importance = nn.Linear(2, 2, bias=False), torch_pruning.importance.GroupHessianImportance(normalizer=None)
    graph = torch_pruning.DependencyGraph().build_dependency(layer, (torch.zeros(1, 2),))
    group = graph.get_pruning_group(layer, torch_pruning.prune_linear_out_channels, [0, 1])
    nn.init.ones_(layer.weight)
    for value in (3.0, 1.0):
        layer.weight.grad = torch.full_like(layer.weight, value)
        importance.accumulate_grad(layer)
    last = importance(group)
    layer.weight.grad = torch.full_like(layer.weight, 1.0)
    importance.accumulate_grad(layer)
    assert torch.equal(last, importance(group))


def test_random_importance_follows_the_layers_own_seed_and_leaves_the_processs_stream_alone():
    selection, model = TorchPruningSelection("RandomImportance"), make("batch_norm")
    state = torch.random.get_rng_state()
    first, again, other = ([selection.scores(x) for x in layers_of(model, seed=seed)] for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))
    assert not torch.equal(first[0][:8], first[1][:8])


class Endless(nn.Module):
    """A product with one of its own columns, on which torch-pruning's search for a group never ends."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = self.first(x)
        return self.last(y * y[:, -1:])


class Untraceable(Endless):
    """Its result hangs on no parameter, so that there is no graph to follow."""

    def forward(self, x):
        return self.last(self.first(x)).detach()


class Added(nn.Module):
    """Two layers whose outputs meet: nodes of both."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.first(x) + self.second(x))


@pytest.mark.parametrize(
    "network,said",
    [
        (Endless, "tracer did not end within 2 s on this network.*selection.time_limit"),
        (Untraceable, "torch-pruning does not understand this network"),
        (Added, "couples other layers; writers in its group first, second, in ours first"),
    ],
)
def test_a_network_that_it_cannot_read_is_skipped_with_the_layer_and_the_reason(network, said):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network()
    data = Calibration(torch.randn(8, 6, generator=stream(0, "x")), torch.arange(8) % 3)
    layer = single(model, "first", "last", 8, data)
    selection = TorchPruningSelection(time_limit=2)
    for _ in range(2):  # the second time at once: what failed is known for the step
        with pytest.raises(Skipped, match=rf"^first: .*{said}"):
            selection.scores(layer)


def test_bad_options_are_refused_with_what_to_type():
    with pytest.raises(BadInput, match=r"selection.importance=Best is unknown; choose one of GroupMagnitudeImportance"):
        TorchPruningSelection("Best")
    with pytest.raises(BadInput, match=r"selection.arguments=\{'q': 1\} do not suit .*type for instance"):
        TorchPruningSelection(arguments={"q": 1})
    with pytest.raises(BadInput, match="expected seconds above 0"):
        TorchPruningSelection(time_limit=0)
