"""Groups that trials let pass and that do something else on real numbers: they alone are left alone."""

import pytest
import torch
from networks import noise
from torch import nn

import secateurs
from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.errors import Skipped
from methods.layers.statistics import Calibration
from methods.network.graph import NetworkGraph, gated
from methods.pruner import Pruner

X, LABELS = noise(40, 16), torch.arange(40) % 3
MANY = 100.0  # more than any number of a trial


class Scaling(nn.Module):
    """Layers of which some divide by the sum of their activations, once these are large: all nodes depend on it."""

    def __init__(self, scaled):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
            self.head = nn.Linear(16, 3)
        with torch.no_grad():
            for place in scaled:
                self.layers[place].weight.mul_(1e4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).abs()
            if float(x.max()) > MANY:
                x = x / (1 + x.sum(1, keepdim=True))
        return self.head(x)


@pytest.mark.parametrize("method", ["spectral", "thinet"])
@pytest.mark.parametrize("scaled", [(1,), (0, 2, 3)])
def test_only_what_is_not_understood_is_left_alone_and_removed_equals_masked_of_the_rest(scaled, method):
    model = Scaling(scaled)
    pruned = secateurs.prune(model, X, LABELS, method=method, compensation="none", keep=0.6)
    assert pruned.left_alone.keys() == {f"layers.{place}" for place in scaled}
    for name, reason in pruned.left_alone.items():
        reader = f"layers.{int(name[-1]) + 1}" if name != "layers.3" else "head"
        assert f"does not equal closing them off, as {reader} shows" in reason
    left = {layer["name"]: layer["kept"] for layer in pruned.layers}
    assert left.keys() == {f"layers.{place}" for place in range(4) if place not in scaled}
    widths = [left.get(f"layers.{place}", 16) for place in range(4)]
    assert widths == [layer.out_features for layer in pruned.model.layers] and min(widths) < 16
    assert pruned.achieved["keep"] == sum(left.values()) / (16 * len(left))
    assert 0.55 < pruned.achieved["keep"] <= 10 / 16


def test_all_layers_and_reasons_are_named_if_none_is_understood():
    with pytest.raises(Skipped) as caught:
        secateurs.prune(Scaling(range(4)), X, LABELS, method="magnitude", keep=0.5)
    told = str(caught.value)
    for place, reader in enumerate(("layers.1", "layers.2", "layers.3", "head")):
        assert f"layers.{place}: removing nodes of it does not equal closing them off, as {reader} shows" in told


def test_a_group_that_is_pruned_in_steps_is_left_alone_in_all_of_them():
    model = Scaling((1,))
    pruned = secateurs.prune(model, X, LABELS, method="magnitude", schedule="iterative", keep=0.5)
    assert pruned.left_alone.keys() == {"layers.1"}
    assert pruned.model.layers[1].out_features == 16
    assert pruned.model.layers[0].out_features < 16


class Growing(Scaling):
    """Scales from some step on only."""

    limit = torch.inf

    def forward(self, x):
        x = self.layers[0](x).abs()
        x = x / (1 + x.sum(1, keepdim=True)) if float(x.max()) > self.limit else x
        return self.head(self.layers[1](x).relu())


def test_what_is_misunderstood_after_a_step_stays_as_that_step_has_left_it():
    def grow(model, _masks, _step):
        with torch.no_grad():
            model.layers[0].weight.mul_(1e4)
        model.limit = MANY

    pruned = secateurs.prune(Growing(()), X, LABELS, method="magnitude", schedule="iterative", train=grow, keep=0.3)
    assert pruned.left_alone.keys() == {"layers.0"}
    first = {layer["name"]: layer["kept"] for layer in pruned.steps[0]["layers"]}
    last = {layer["name"]: (layer["units"], layer["kept"]) for layer in pruned.layers}
    assert last["layers.0"] == (16, first["layers.0"]) and first["layers.0"] < 16
    assert pruned.model.layers[0].out_features == first["layers.0"]
    assert pruned.achieved["keep"] == last["layers.1"][1] / 16 == pytest.approx(0.3, abs=0.03)
    assert pruned.model.layers[1].out_features == last["layers.1"][1] < first["layers.1"]


def test_what_is_left_equals_the_masked_network():
    model = Scaling((2,))
    pruned = Pruner(MagnitudeSelection()).prune(model, Calibration(X, LABELS), Budget("keep", 0.6))
    groups = [group for group in NetworkGraph(model, X[:2]).groups if group.name != "layers.2"]
    assert pruned.kept.keys() == {group.name for group in groups}
    with torch.no_grad(), gated(model, groups, pruned.kept):
        masked = model(X)
    with torch.no_grad():
        assert torch.allclose(pruned.model(X), masked, atol=1e-5)
        assert not torch.allclose(model(X), masked, atol=1e-3)
