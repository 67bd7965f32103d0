"""A result says where a layer keeps nearly nothing, and where a repair let a weight grow tenfold."""

import pytest
import torch
from torch import nn

from methods import Budget, Calibration, Pruner
from methods.allocation import Explicit
from methods.baselines.magnitude import MagnitudeSelection
from methods.compensation import Compensation, Reconstruction
from methods.seeds import stream


def made(width=300):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 20), nn.ReLU(), nn.Linear(20, 3)).eval()
    inputs = torch.randn(30, 6, generator=stream(0, "x"))
    return model, Calibration(inputs, torch.zeros(30, dtype=torch.int64), torch.arange(30))


class Scaled(Compensation):
    """Multiplies what the survivors of the second layer pass on."""

    def __init__(self, factor):
        self.factor = factor

    def reconstruction(self, layer, kept, selection):
        factor = self.factor if layer.name == "2" else 1.0
        return [Reconstruction(factor * torch.eye(layer.size, dtype=torch.float64)[:, kept])]


def test_an_ordinary_result_has_no_warnings():
    model, data = made()
    assert Pruner(MagnitudeSelection()).prune(model, data, Budget("keep", 0.5)).warnings == []
    assert Pruner(MagnitudeSelection("edge")).prune(model, data, Budget("keep", 0.5)).warnings == []


@pytest.mark.parametrize(("kept", "warned"), [(2, True), (3, False)])
def test_a_layer_that_keeps_under_a_hundredth_is_named(kept, warned):
    model, data = made()
    pruned = Pruner(MagnitudeSelection(), Explicit({"0": kept})).prune(model, data, Budget("keep", 0.5))
    assert pruned.warnings == (["0 keeps 2 of 300 units, under 1 %"] if warned else [])


@pytest.mark.parametrize(("factor", "warned"), [(30.0, True), (-30.0, True), (5.0, False)])
def test_a_weight_that_grows_tenfold_is_named(factor, warned):
    model, data = made()
    largest = float(model[4].weight.detach().abs().max())
    pruner = Pruner(MagnitudeSelection(), Explicit({"2": 19}), Scaled(factor))
    pruned = pruner.prune(model, data, Budget("keep", 0.5))
    grown = float(pruned.model[4].weight.detach().abs().max())
    expected = [f"the largest weight of 4 grew from {largest:.3g} to {grown:.3g}"] if warned else []
    assert pruned.warnings == expected
