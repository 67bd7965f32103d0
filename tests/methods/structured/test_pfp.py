"""Sensitivities and PFP's sample sizes against their definitions, written out with loops."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration as images
from networks import make
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.errors import BadInput
from methods.layers.sensitivity import sensitivities
from methods.layers.statistics import Calibration
from methods.layers.views import node_views
from methods.network.graph import NetworkGraph
from methods.pruner import Pruner
from methods.structured.pfp import EqualErrors, PFPSelection, draws, expected_unique


def shares(weight, patches, positions):
    """(out, d) by loops over samples, positions, units and inputs; ``patches`` is (n, d, T)."""
    found = torch.zeros_like(weight)
    for sample in patches:
        for part in sample.clamp_min(0), (-sample).clamp_min(0):
            own = torch.zeros(*weight.shape, part.shape[1], dtype=weight.dtype)
            for t in range(part.shape[1]):
                for i, row in enumerate(weight):
                    for sign in (1, -1):
                        signed = (sign * row).clamp_min(0) * part[:, t]
                        if signed.sum() > 1e-6:
                            own[i, :, t] += signed / signed.sum()
            found = torch.maximum(found, own.amax(2) if positions == "max" else own.mean(2))
    return found


@pytest.mark.verifies("pfp", "sipp", by="brute force")
@pytest.mark.parametrize("positions", ["max", "mean"])
@pytest.mark.parametrize("groups", [1, 2])
def test_sensitivities_are_the_largest_shares(positions, groups):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2 * groups, 4, 3, padding=1, groups=groups), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        )
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(5, 2 * groups, 4, 4, generator=generator)  # of both signs
    data = Calibration(inputs, torch.zeros(5, dtype=torch.int64), batch_size=2)
    found, count = sensitivities(model, "0", data, positions)
    patches = nn.functional.unfold(inputs, 3, padding=1).double().chunk(groups, 1)
    weights = model[0].weight.detach().double().flatten(1).chunk(groups)
    wanted = torch.cat([shares(w, p, positions) for w, p in zip(weights, patches, strict=True)])
    assert count == 16
    assert torch.allclose(found, wanted, atol=1e-6) and float(found.max()) <= 1 + 1e-6
    last, one = sensitivities(model, "3", data, positions)
    read = model[:3](inputs).detach().double()[:, :, None]
    assert one == 1
    assert torch.allclose(last, shares(model[3].weight.detach().double(), read, positions), atol=1e-6)


@pytest.mark.verifies("pfp", by="brute force")
def test_a_channel_is_as_sensitive_as_the_most_sensitive_weight_that_reads_it():
    model, data = make("convolution"), images(20)
    layers = node_views(model, NetworkGraph(model, data.inputs[:2]).groups, data, "test")
    selection = PFPSelection(samples=20)
    found, _ = sensitivities(model, layers[0].readers[0], data, "max")
    assert torch.allclose(selection.scores(layers[0]), found.view(10, 8, 9).amax((0, 2)))
    found, _ = sensitivities(model, layers[1].readers[0], data, "max")
    assert torch.allclose(selection.scores(layers[1]), found.view(16, 10, 4).amax((0, 2)))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 6), count=st.integers(1, 12))
def test_expected_numbers_of_different_items(seed, size, count):
    weights = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    probabilities = weights / weights.sum()
    assert expected_unique(probabilities, count) == pytest.approx(float((1 - (1 - probabilities) ** count).sum()))


def test_draws_follow_the_bound():
    """K (6 + 2 eps) S alpha / eps^2 with K = 3, rounded up, at least one."""
    assert draws(0.5, 2.0) == math.ceil(3 * 7 * 2 / 0.25)
    assert draws(1e9, 1.0) == 1


def test_equal_errors_gives_each_layer_what_one_error_asks_for():
    model, data = make("convolution"), images(20)
    layers = node_views(model, NetworkGraph(model, data.inputs[:2]).groups, data, "test")
    selection = PFPSelection(samples=20)
    family = EqualErrors(delta=1e-16, constant=3.0).family(layers, selection)
    sizes = {layer.name: layer.size for layer in layers}
    assert family(1.0) == sizes
    assert set(family(0.0).values()) == {1}
    grid = [family(s / 40) for s in range(41)]
    for low, high in pairwise(grid):
        assert all(low[name] <= high[name] for name in sizes)
    s = 0.4
    eps = 1e9 ** (1 - s) * 1e-9**s
    positions = {"0": (4, 9), "3": (1, 1), "6": (1, 1)}  # of the readers: output positions, weights per kernel
    for layer in layers:
        scores = selection.scores(layer)
        count, kernel = positions[layer.name]
        alpha = 2 * 3 * math.log(8 * (count + 1) * kernel / 1e-16)
        total = float(scores.sum())
        made = max(1, math.ceil(3 * (6 + 2 * eps) * total * alpha / eps**2))
        wanted = math.ceil(float((1 - (1 - scores / total) ** made).sum()) - 1e-9)
        assert family(s)[layer.name] == min(layer.size, max(1, wanted))


def test_other_selections_have_no_sensitivities():
    with pytest.raises(BadInput, match="allocation=equal_errors needs sensitivities"):
        Pruner(MagnitudeSelection(), EqualErrors())


@pytest.mark.parametrize("options", [{"delta": 0.0}, {"delta": 1.0}, {"constant": 0.0}])
def test_bounds_that_are_none_are_refused(options):
    with pytest.raises(BadInput, match="allocation.delta"):
        EqualErrors(**options)
