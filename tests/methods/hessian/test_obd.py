import pytest
import torch
from torch import nn

from methods.hessian.obd import OBDSelection, obd_saliency
from methods.layers.seen import EdgeLayer
from methods.layers.statistics import Calibration


def layers_of(model, calibration):
    shared = {}
    layers = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            live = torch.ones(module.weight.shape, dtype=torch.bool)
            layers.append(EdgeLayer(name, model, calibration, torch.Generator(), lambda: None, live, shared))
    shared["layers"] = layers
    return layers


@pytest.mark.verifies("obd", by="closed form")
def test_saliency_is_the_increase_of_a_diagonal_quadratic():
    generator = torch.Generator().manual_seed(0)
    h = torch.rand(6, dtype=torch.float64, generator=generator)
    w = torch.randn(6, dtype=torch.float64, generator=generator)
    for q in range(6):
        zeroed = w.clone()
        zeroed[q] = 0
        increase = 0.5 * ((zeroed - w) * h * (zeroed - w)).sum()
        torch.testing.assert_close(obd_saliency(w, h)[q], increase)


@pytest.mark.verifies("obd", by="brute force")
def test_scores_come_from_single_sample_gradients_of_all_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    calibration = Calibration(torch.randn(9, 3).double(), torch.randint(2, (9,)), torch.arange(9))
    layers = layers_of(model, calibration)
    selection = OBDSelection(samples=8, labels="true")
    squares = [torch.zeros_like(layer.weight) for layer in layers]
    for x, y in zip(calibration.inputs[:8], calibration.labels[:8], strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[None]), y[None]).backward()
        for total, layer in zip(squares, layers, strict=True):
            total += model.get_submodule(layer.name).weight.grad ** 2
    for total, layer in zip(squares, layers, strict=True):
        expected = 0.5 * total / 8 * layer.weight**2
        torch.testing.assert_close(selection.scores(layer), expected)
        kept = selection.select(layer, 5)
        assert int(kept.sum()) == 5
        assert selection.scores(layer)[kept].min() >= selection.scores(layer)[~kept].max()
        predicted = selection.report(layer, kept)["predicted_increase"]
        torch.testing.assert_close(predicted, float(expected[~kept].sum()))


def test_sampled_labels_differ_from_true_ones_and_repeat():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2)).double()
    calibration = Calibration(torch.randn(30, 3).double(), torch.zeros(30, dtype=torch.long), torch.arange(30), seed=5)
    (layer,) = layers_of(model, calibration)
    sampled = OBDSelection().scores(layer)
    (again,) = layers_of(model, calibration)
    assert torch.equal(OBDSelection().scores(again), sampled)
    assert not torch.allclose(OBDSelection(labels="true").scores(layer), sampled)
