"""The distance of a pruned network from the original, and the bound that always holds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.baselines.random import RandomSelection
from methods.budgets.budget import Budget
from methods.compensation import Compensation, LeastSquares
from methods.layers.statistics import Calibration
from methods.pruner import Pruner
from methods.schedule import Iterative
from methods.spectral.network_error import chain, chain_bound, network_error
from methods.spectral.selection import SpectralSelection

DATA = calibration(96)


def perceptron(seed, activation=nn.ReLU):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Flatten(), nn.Linear(64, 20), activation(), nn.Linear(20, 16), activation(), nn.Linear(16, 4)]
        return nn.Sequential(*layers).double().eval()


def doubled():
    return Calibration(DATA.inputs.double(), DATA.labels, DATA.indices, batch_size=40)


def test_error_is_the_root_mean_square_of_the_outputs():
    first, second = make("chain", 0), make("chain", 1)
    found = network_error(first, second, DATA)
    with torch.no_grad():
        before, after = first(DATA.inputs).double(), second(DATA.inputs).double()
    assert found.absolute == pytest.approx(float((before - after).square().sum(1).mean().sqrt()))
    assert found.relative == pytest.approx(float((before - after).norm() / before.norm()))
    assert network_error(first, first, DATA).absolute == 0


@given(
    st.integers(0, 1000),
    st.sampled_from([0.1, 0.3, 0.7]),
    st.sampled_from([nn.ReLU, nn.Tanh, nn.LeakyReLU]),
    st.sampled_from([RandomSelection(), MagnitudeSelection(), SpectralSelection(procedure="backward")]),
    st.sampled_from([Compensation(), LeastSquares(), LeastSquares(intercept=True), LeastSquares(refit=True)]),
)
@settings(deadline=None, max_examples=25)
def test_the_bound_holds_for_every_choice_and_repair(seed, keep, activation, selection, compensation):
    model = perceptron(seed, activation)
    pruned = Pruner(selection, compensation=compensation).prune(model, doubled(), Budget("keep", keep))
    error = network_error(model, pruned.model, doubled()).absolute
    bound = chain_bound(model, pruned.model, pruned.kept, doubled())
    assert error <= bound * (1 + 1e-9)
    assert bound < 1e3 * max(error, 1e-3)


def test_the_bound_is_exact_where_one_layer_alone_is_pruned():
    model = perceptron(5)
    kept = {"3": torch.arange(0, 16, 2)}
    pruned = perceptron(5)
    with torch.no_grad():
        pruned[3].weight, pruned[3].bias = (nn.Parameter(p[kept["3"]]) for p in (pruned[3].weight, pruned[3].bias))
        pruned[5].weight = nn.Parameter(pruned[5].weight[:, kept["3"]])
    error = network_error(model, pruned, doubled()).absolute
    assert chain_bound(model, pruned, kept, doubled()) == pytest.approx(error, rel=1e-9)


def test_only_chains_have_a_bound():
    assert chain(make("chain")) == ["1", "3", "5"]
    assert chain(make("convolution")) is None and chain(make("residual")) is None
    assert chain(nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(2.0))) is None
    assert chain_bound(make("batch_norm"), make("batch_norm"), {}, DATA) is None


def test_spectral_pruning_predicts_the_network_error():
    [found] = (
        Pruner(SpectralSelection(), compensation=LeastSquares())
        .prune(perceptron(1), doubled(), Budget("keep", 0.5))
        .predictions
    )
    assert 0 < found["measured"] <= found["predicted"] and found["layer"] is None
    [found] = Pruner(SpectralSelection()).prune(make("residual"), DATA, Budget("keep", 0.5)).predictions
    assert found["predicted"] is None and found["measured"] > 0
    [found] = (
        Pruner(SpectralSelection(), schedule=Iterative(2))
        .prune(perceptron(1), doubled(), Budget("keep", 0.5))
        .predictions
    )
    assert found["predicted"] is None
    assert Pruner(RandomSelection()).prune(make("chain"), DATA, Budget("keep", 0.5)).predictions == []
